// A restricted Python unpickler: plain values, containers, and the few globals that PyTorch writes for tensors. Nothing is executed.
//
//   Pickle p(bytes, path);
//   uint32_t root = TRY(p.load());          // index into p.nodes(); may be called again for the next pickle of a legacy file
//   std::vector<TorchTensor> tensors = TRY(p.tensors(root));
//
// Any other opcode or global is an error that names it and its byte. Values live in one array and refer to each other by index, so that
// nothing here recurses over hostile nesting. Thread rule: one thread.
#pragma once

#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "tensor/shape.h"

namespace ingot::formats {

struct TorchStorage {
  std::string key;  // record "data/<key>" of a zip, or the legacy key
  DType dtype = DType::kF32;
  int64_t elements = 0;  // of the whole storage, in dtype
  int64_t view_offset = 0, view_elements = 0;  // the part of it that this reference means
};

struct TorchTensor {
  std::string name;
  TorchStorage storage;
  DType dtype = DType::kF32;
  int64_t offset = 0;  // elements
  Shape shape;
  std::vector<int64_t> stride;
};

struct PickleNode {
  enum class Kind : uint8_t { kNone, kBool, kInt, kBigInt, kFloat, kString, kBytes, kTuple, kList, kDict, kSet, kGlobal, kStorage, kTensor };
  Kind kind = Kind::kNone;
  int64_t integer = 0;         // bool, int; index of the global, storage or tensor
  double number = 0;
  std::string_view text = {};  // string, bytes, big int (little endian)
  std::vector<uint32_t> items = {};  // containers; a dict alternates keys and values
};
const char* kind_name(PickleNode::Kind kind);

class Pickle {
 public:
  Pickle(std::span<const std::byte> bytes, std::string what);
  Result<uint32_t> load();
  size_t at() const { return at_; }
  const std::vector<PickleNode>& nodes() const { return nodes_; }
  const std::vector<TorchStorage>& storages() const { return storages_; }
  // All tensors below a dict (or list, tuple), named by the keys to them joined with dots.
  Result<std::vector<TorchTensor>> tensors(uint32_t root) const;

 private:
  using Kind = PickleNode::Kind;
  Error wrong(std::string_view message) const;
  Result<std::span<const std::byte>> take(uint64_t bytes);
  template <class T>
  Result<T> number();
  Result<std::string_view> line();
  Result<uint32_t> add(PickleNode node);
  Status push(PickleNode node);
  Status push_text(Kind kind, uint64_t bytes);
  Status push_global(std::string_view module, std::string_view name);
  Status push_long(uint64_t bytes);
  Result<uint32_t> pop();
  Result<std::vector<uint32_t>> pop_to_mark();
  Status push_tuple(size_t count);
  Status set_items(std::vector<uint32_t> items);
  Status append_items(Kind kind, std::vector<uint32_t> items);
  Status put(uint64_t key);
  Status get(uint64_t key);
  Status persistent_id();
  Status reduce();
  Status build();
  Status rebuild_tensor(int global, uint32_t args);
  Status make_dict(uint32_t args);
  Result<bool> step(uint8_t opcode);  // true at STOP
  Result<int64_t> integer(uint32_t node, std::string_view what) const;
  Result<std::vector<int64_t>> integers(uint32_t node, std::string_view what) const;
  struct Walk;
  Result<int64_t> collect(uint32_t node, const std::string& name, int depth, Walk& walk) const;

  std::span<const std::byte> bytes_;
  std::string what_;
  size_t at_ = 0, opcode_at_ = 0;
  std::vector<PickleNode> nodes_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, uint32_t> memo_;
  std::vector<TorchStorage> storages_;
  std::vector<TorchTensor> tensors_;
  size_t copied_items_ = 0;  // by OrderedDict(list): what a memoised list could multiply
};

}  // namespace ingot::formats
