// GGUF (versions 2 and 3, little endian): typed metadata, tensors as Views, the embedded vocabulary.
//
//   std::unique_ptr<GgufFile> g = TRY(GgufFile::open("model-Q4_0.gguf"));
//   int64_t layers = TRY(g->integer("llama.block_count"));
//   View w = TRY(g->find("blk.0.attn_q.weight"));               // shape outermost first: [out, in]
//
// Thread rule: as TensorSource; metadata is immutable.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/source.h"

namespace ingot::formats {

enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

struct GgufValue {
  GgufType type = GgufType::kU8;          // of the value, or of the elements when is_array
  bool is_array = false;
  uint64_t count = 1;
  std::span<const std::byte> raw;         // numbers and booleans as in the file; borrowed
  std::vector<std::string_view> strings;  // strings, one or `count`; borrowed
  // Element i as the asked kind; CHECKs that i < count and that the type is one (integers and booleans; any number; a string).
  int64_t integer(uint64_t i = 0) const;  // u64 beyond int64 saturates
  double number(uint64_t i = 0) const;
  bool is_integer() const;  // integer or boolean
  bool is_number() const { return type != GgufType::kString && type != GgufType::kArray; }
};

// The tokenizer of a GGUF file, as its keys tell it; ids absent are -1.
struct GgufVocabulary {
  std::string model;  // tokenizer.ggml.model: "llama" (sentencepiece), "gpt2" (byte-level BPE), ...
  std::string pre;    // tokenizer.ggml.pre, "" when absent
  std::vector<std::string> tokens, merges;
  std::vector<float> scores;  // empty or one per token
  std::vector<int> types;     // empty or one per token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  int bos = -1, eos = -1, eot = -1, unknown = -1, padding = -1, separator = -1;
  bool add_bos = false, add_eos = false, add_space_prefix = true;
  bool has_add_bos = false;  // whether the file says so, or the default of its model applies
  std::string chat_template;
};

class GgufFile : public TensorSource {
 public:
  static Result<std::unique_ptr<GgufFile>> open(const std::string& path);

  virtual int version() const = 0;
  virtual const std::vector<std::string>& keys() const = 0;  // in file order
  virtual const GgufValue* value(std::string_view key) const = 0;  // nullptr: absent
  // Metadata by kind; errors name file, key, found, wanted.
  Result<int64_t> integer(std::string_view key) const;
  Result<double> number(std::string_view key) const;
  Result<std::string> string(std::string_view key) const;
  Result<int64_t> integer_or(std::string_view key, int64_t otherwise) const;
  Result<double> number_or(std::string_view key, double otherwise) const;
  Result<std::string> string_or(std::string_view key, std::string otherwise) const;
  bool has_vocabulary() const { return value("tokenizer.ggml.tokens") != nullptr; }
  Result<GgufVocabulary> vocabulary() const;

 private:
  Result<const GgufValue*> one(std::string_view key, const char* want) const;
};

}  // namespace ingot::formats
