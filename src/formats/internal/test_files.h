// Files for the tests of this module: a scratch folder, bytes, and what happens to a reader when a file is cut or changed.
//
//   Scratch scratch; std::string path = scratch.write("a.safetensors", bytes);
//
// Thread rule: one test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/files.h"
#include "base/test_folder.h"

namespace ingot::formats {

class Scratch {
 public:
  std::string path(std::string_view name = "") const { return folder_.at(name); }
  std::string write(std::string_view name, std::string_view bytes) const {
    CHECK(write_file(path(name), bytes).ok(), name);
    return path(name);
  }

 private:
  TestFolder folder_;
};

template <class T>
void put(std::string& out, T v) {
  out.append(reinterpret_cast<const char*>(&v), sizeof v);
}

template <class T>
std::vector<T> values_of(std::span<const std::byte> bytes) {
  std::vector<T> out(bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

template <class R>
std::string message_of(const R& result) {
  return result.ok() ? "(no error)" : result.error().message();
}

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << text

}  // namespace ingot::formats
