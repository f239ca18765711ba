// FNV-1a, 64 bits: names and keys of caches; not for anything an attacker may choose.
//
//   const uint64_t key = hash_text(path);
//
// Thread rule: a function of its argument.
#pragma once

#include <cstdint>
#include <string_view>

namespace ingot {

constexpr uint64_t hash_text(std::string_view s) {
  uint64_t h = 0xcbf29ce484222325;
  for (char c : s) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return h;
}

}  // namespace ingot
