// The directory of a zip archive (zip64 too), stored and deflated entries.
//
//   std::vector<ZipEntry> entries = TRY(read_zip(file.bytes(), path));
//   std::vector<std::byte> data = TRY(read_entry(file.bytes(), entries[0], path));
//
// Thread rule: pure functions.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace ingot::formats {

struct ZipEntry {
  std::string name;
  bool deflated = false;
  size_t offset = 0;      // of the data in the archive
  size_t compressed = 0;  // bytes there
  size_t bytes = 0;       // bytes of the entry
};

bool looks_like_zip(std::span<const std::byte> archive);
// All ranges lie in the archive; sizes that deflate cannot reach are refused. Directories are left out.
Result<std::vector<ZipEntry>> read_zip(std::span<const std::byte> archive, const std::string& path);
Result<std::vector<std::byte>> read_entry(std::span<const std::byte> archive, const ZipEntry& entry, const std::string& path);

}  // namespace ingot::formats
