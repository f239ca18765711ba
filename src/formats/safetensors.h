// safetensors: 8 bytes header length (little endian), a JSON object name -> {dtype, shape, data_offsets}, then the tensor bytes.
//
//   auto source = TRY(open_safetensors("model.safetensors"));
//   SafetensorsWriter w; TRY(w.declare("a.weight", DType::kF16, {64, 32})); TRY(w.begin("out.safetensors"));
//   TRY(w.write("a.weight", 0, bytes)); TRY(w.finish());
//
// Thread rule: reading: any thread. SafetensorsWriter: one thread, but `write` of different ranges may run concurrently.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "base/files.h"
#include "formats/source.h"

namespace ingot::formats {

using Metadata = std::map<std::string, std::string>;  // the "__metadata__" object

// Refused: a header over 100 MB or over the file, unknown types, two tensors of one name, ranges that overlap, leave holes, lie outside the
// file, or differ from what shape and type need.
Result<std::unique_ptr<TensorSource>> open_safetensors(const std::string& path, Metadata* metadata = nullptr);
// The shards of a `*.safetensors.index.json` beside it. Tensors that the index names and no shard holds are an error.
Result<std::unique_ptr<TensorSource>> open_safetensors_index(const std::string& index_path);
// The shard files (sorted, each once) that an index.json names; PyTorch's index has the same form. With `check`, an error when one of
// its names is not in that source.
Result<std::vector<std::string>> read_shard_index(const std::string& index_path, const TensorSource* check);

// Writes in two passes: declare every tensor, then write the bytes in any order and any pieces. Equal input gives equal files: tensors
// lie by descending element size, then by name, so each is aligned for its type; the data begins at a multiple of 64.
class SafetensorsWriter {
 public:
  // 4-bit types have no name in this format: declare their bytes as u8 or i8. An error on a second tensor of the same name.
  Status declare(std::string name, DType dtype, const Shape& shape);
  Status begin(const std::string& path, const Metadata& metadata = {});
  // Bytes [offset, offset + bytes.size()) of the tensor. Each byte must be written once.
  Status write(std::string_view name, size_t offset, std::span<const std::byte> bytes);
  Status write(std::string_view name, const View& view);  // all of it; type and shape must be as declared
  // Renames the file into place; an error when a tensor has bytes that were not written. Without it nothing is left behind.
  Status finish();

 private:
  struct Entry {
    TensorInfo info;
    size_t offset = 0, bytes = 0, written = 0;
  };
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;
  std::unique_ptr<FileWriter> file_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
};

}  // namespace ingot::formats
