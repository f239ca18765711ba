// TensorSource: named tensors in files of any format, as Views.
//
//   std::unique_ptr<TensorSource> source = TRY(open_source("llama3-8b"));      // a directory or a file
//   View w = TRY(source->find("model.embed_tokens.weight"));                   // borrowed from the mapped file
//   source->forget("model.embed_tokens.weight");                               // its pages may leave memory
//
// Thread rule: all members may be called from any thread. A View is valid until the source is destroyed or its tensor is forgotten.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/shape.h"

namespace ingot::formats {

enum class SourceKind { kSafetensors, kGguf, kTorch, kMeta };
const char* kind_name(SourceKind kind);  // "safetensors", "GGUF", "PyTorch", "Meta consolidated"

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;  // outermost first, also for GGUF
};

class GgufFile;

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual SourceKind kind() const = 0;
  virtual const std::string& path() const = 0;               // what was opened
  virtual std::span<const TensorInfo> list() const = 0;      // in file order
  virtual const TensorInfo* info(std::string_view name) const = 0;  // nullptr: no such tensor
  // The tensor, contiguous and aligned for its type. Borrowed from the mapping where the file allows it; made in memory where it does
  // not (strided or compressed PyTorch tensors, misaligned safetensors, joined Meta shards) and kept until forgotten.
  virtual Result<View> find(std::string_view name) const = 0;
  virtual void forget(std::string_view name) const = 0;
  virtual const GgufFile* gguf() const { return nullptr; }  // the metadata, when this is a GGUF file
};

// Opens what `path` holds:
//   a file       by its first bytes: safetensors, GGUF (the first of a split set opens all), PyTorch zip or legacy pickle;
//                *.index.json: its shards
//   a directory  the first of: model.safetensors.index.json, model.safetensors, pytorch_model.bin.index.json, pytorch_model.bin,
//                any other *.safetensors.index.json or sole *.safetensors, pytorch_model-*.bin, consolidated.NN.pth, one *.gguf (set)
// The error of an unknown path lists what was looked for; a TensorRT plan file is recognised and named as such.
Result<std::unique_ptr<TensorSource>> open_source(const std::string& path);

// A TensorRT serialized engine ("plan"): it begins with the tag "ftrt" (before TensorRT 7: "ptrt"). `head`: the first bytes of the file.
bool is_tensorrt_plan(std::span<const std::byte> head);

}  // namespace ingot::formats
