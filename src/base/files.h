// Files as bytes: mapping, reading whole, replacing atomically.
//
//   MappedFile file = TRY(MappedFile::open(path));   // file.bytes() stays valid as long as `file` lives
//
// Errors name the path and the system's reason. Thread rule: a MappedFile may be read from any thread.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace ingot {

// A read-only private mapping of a whole file. An empty file maps to an empty span.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  // Tells the kernel that a range will not be read again (keeps resident memory flat while a large file is streamed).
  void forget(size_t offset, size_t bytes) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

Result<std::string> read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);
// Writes to a temporary name beside `path` and renames it over `path`: readers see the old bytes or the new ones.
Status write_file(const std::string& path, std::string_view bytes);

// Appends to a new file, with a 4 KiB aligned tail position available, renamed into place by finish(); removed when dropped before.
class FileWriter {
 public:
  static Result<FileWriter> create(const std::string& path);
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&&) = delete;
  ~FileWriter();
  Status append(const void* data, size_t bytes);
  Status pad_to(size_t alignment);  // zero bytes up to the next multiple
  Status extend(size_t size);  // the file grows to `size`; what write_at() does not fill reads as zero bytes
  Status write_at(size_t offset, const void* data, size_t bytes);  // within size(); disjoint ranges may be written concurrently
  size_t size() const { return size_; }
  Status finish();

 private:
  FileWriter() = default;
  int fd_ = -1;
  size_t size_ = 0;
  std::string path_, temporary_;
};

bool file_exists(const std::string& path);
bool is_directory(const std::string& path);
// Whether write_file(path) may succeed, asked before long work whose result goes there; `what` names the flag. Empty path: fine.
Status check_output_file(std::string_view what, const std::string& path);
Status make_directories(const std::string& path);
Result<std::vector<std::string>> list_directory(const std::string& path);  // names, sorted
std::string join_path(std::string_view directory, std::string_view name);
std::string base_name(std::string_view path);
std::string parent_directory(std::string_view path);

}  // namespace ingot
