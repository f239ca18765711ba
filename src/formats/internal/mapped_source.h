// MappedSource: the TensorSource behind every format: entries that point into mapped files, some of which must be made in memory.
//
//   auto source = std::make_unique<MappedSource>(SourceKind::kSafetensors, path);
//   int file = source->add_file(std::move(mapped));
//   TRY(source->add({.info = {name, dtype, shape}, .file = file, .offset = begin, .bytes = n}));
//
// Thread rule: add_* before sharing; then as TensorSource.
#pragma once

#include <deque>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "base/files.h"
#include "formats/source.h"

namespace ingot::formats {

// Bytes of a tensor read from a file: an error (that starts with `what`) when 64 bits do not hold them or the last axis does not
// divide into storage blocks. Unlike storage_bytes(), made for numbers that nobody has checked.
Result<int64_t> checked_bytes(DType dtype, const Shape& shape, std::string_view what);

class MappedSource : public TensorSource {
 public:
  using Bytes = std::vector<std::byte>;
  // Makes the tensor's bytes; called under the source's lock, so at most once at a time.
  using Make = std::function<Result<Bytes>()>;

  struct Entry {
    TensorInfo info;
    int file = -1;
    size_t offset = 0, bytes = 0;  // within the file: what find() borrows and forget() drops
    Make make;                     // set: the tensor must be made
  };

  MappedSource(SourceKind kind, std::string path) : kind_(kind), path_(std::move(path)) {}
  int add_file(MappedFile file);
  const MappedFile& file(int i) const { return files_[static_cast<size_t>(i)]; }
  // The range must lie in the file. Misaligned ranges become made entries. A second tensor of the same name is an error.
  Status add(Entry entry);
  // Shows all entries of `other` too, which is kept alive.
  Status adopt(std::shared_ptr<const MappedSource> other);

  SourceKind kind() const override { return kind_; }
  const std::string& path() const override { return path_; }
  std::span<const TensorInfo> list() const override { return infos_; }
  const TensorInfo* info(std::string_view name) const override;
  Result<View> find(std::string_view name) const override;
  void forget(std::string_view name) const override;

 private:
  struct Slot {
    const MappedSource* owner = nullptr;  // whose files_ `file` counts in
    int file = -1;
    size_t offset = 0, bytes = 0;
    Make make;
  };

  SourceKind kind_;
  std::string path_;
  std::deque<MappedFile> files_;
  std::vector<TensorInfo> infos_;
  std::vector<Slot> slots_;
  std::unordered_map<std::string, size_t> index_;
  std::vector<std::shared_ptr<const MappedSource>> adopted_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<size_t, Bytes> made_;
};

}  // namespace ingot::formats
