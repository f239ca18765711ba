// A folder of a test's own, empty at first; it goes with all that is in it.
//
//   TestFolder folder;
//   CHECK(write_file(folder.at("config.json"), "{}").ok(), folder.at());
//
// Thread rule: a value.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "base/files.h"

namespace ingot {

class TestFolder {
 public:
  TestFolder() : path_((std::filesystem::temp_directory_path() / "ingot_test_XXXXXX").string()) { CHECK(::mkdtemp(path_.data()), path_); }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  std::string at(std::string_view name = "") const { return name.empty() ? path_ : join_path(path_, name); }

 private:
  std::string path_;
};

}  // namespace ingot
