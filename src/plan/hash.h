// Hash of weight and section bytes: finds damage, at memory speed. Not against forgery.
//
//   uint64_t h = hash_bytes(bytes);
//
// Definition (also in docs/plan_format.md): four lanes start at mix64(1 .. 4); each 32-byte block, the last one padded with zeros, gives
// lane i its i-th little-endian word w: lane = rotl(lane ^ w, 29) * 0x9e3779b97f4a7c15. The hash is mix64(size + sum of mix64(lane i + i)).
// Each step is a bijection of its lane, so a change within one word of a block always changes that lane.
//
// Thread rule: pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ingot::plan {

uint64_t hash_bytes(std::span<const std::byte> bytes);

}  // namespace ingot::plan
