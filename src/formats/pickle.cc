#include "formats/internal/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ingot::formats {
namespace {

constexpr size_t kMaxNodes = 4'000'000;  // a model of 10000 tensors makes 300000
constexpr int kMaxDepth = 32;
constexpr size_t kMaxNameBytes = 4096, kMaxKeyBytes = 256;

enum Global : int {
  kOrderedDict,
  kRebuildTensor,
  kRebuildTensorV2,
  kRebuildTensorV3,
  kRebuildParameter,
  kSize,
  kStorageType,
  kTorchDtype,
};

struct GlobalRow {
  const char* module;
  const char* name;
  Global global;
  DType dtype = DType::kF32;
};
constexpr GlobalRow kGlobals[] = {
    {"collections", "OrderedDict", kOrderedDict},
    {"torch._utils", "_rebuild_tensor", kRebuildTensor},
    {"torch._utils", "_rebuild_tensor_v2", kRebuildTensorV2},
    {"torch._utils", "_rebuild_tensor_v3", kRebuildTensorV3},
    {"torch._utils", "_rebuild_parameter", kRebuildParameter},
    {"torch", "Size", kSize},
    {"torch", "FloatStorage", kStorageType, DType::kF32},
    {"torch", "HalfStorage", kStorageType, DType::kF16},
    {"torch", "BFloat16Storage", kStorageType, DType::kBf16},
    {"torch", "DoubleStorage", kStorageType, DType::kF64},
    {"torch", "CharStorage", kStorageType, DType::kI8},
    {"torch", "ByteStorage", kStorageType, DType::kU8},
    {"torch", "ShortStorage", kStorageType, DType::kI16},
    {"torch", "IntStorage", kStorageType, DType::kI32},
    {"torch", "LongStorage", kStorageType, DType::kI64},
    {"torch", "BoolStorage", kStorageType, DType::kBool},
    {"torch", "UntypedStorage", kStorageType, DType::kU8},
    {"torch.storage", "UntypedStorage", kStorageType, DType::kU8},
    {"torch", "float32", kTorchDtype, DType::kF32},
    {"torch", "float16", kTorchDtype, DType::kF16},
    {"torch", "bfloat16", kTorchDtype, DType::kBf16},
    {"torch", "float64", kTorchDtype, DType::kF64},
    {"torch", "int8", kTorchDtype, DType::kI8},
    {"torch", "uint8", kTorchDtype, DType::kU8},
    {"torch", "int16", kTorchDtype, DType::kI16},
    {"torch", "int32", kTorchDtype, DType::kI32},
    {"torch", "int64", kTorchDtype, DType::kI64},
    {"torch", "uint16", kTorchDtype, DType::kU16},
    {"torch", "uint32", kTorchDtype, DType::kU32},
    {"torch", "uint64", kTorchDtype, DType::kU64},
    {"torch", "bool", kTorchDtype, DType::kBool},
    {"torch", "float8_e4m3fn", kTorchDtype, DType::kF8E4M3},
    {"torch", "float8_e5m2", kTorchDtype, DType::kF8E5M2},
};

std::string global_name(int64_t row) { return cat(kGlobals[row].module, ".", kGlobals[row].name); }

}  // namespace

const char* kind_name(PickleNode::Kind kind) {
  constexpr const char* kNames[] = {"None", "bool", "int", "big int", "float", "str", "bytes", "tuple", "list", "dict", "set", "global", "storage", "tensor"};
  return kNames[static_cast<size_t>(kind)];
}

Pickle::Pickle(std::span<const std::byte> bytes, std::string what) : bytes_(bytes), what_(std::move(what)) {}

Error Pickle::wrong(std::string_view message) const {
  return Error(Code::kInvalidArgument, cat(what_, ": ", message, " (pickle byte ", opcode_at_, ")"));
}

Result<std::span<const std::byte>> Pickle::take(uint64_t bytes) {
  if (bytes > bytes_.size() - at_) return wrong(cat("the pickle ends: ", bytes, " bytes wanted, ", bytes_.size() - at_, " left"));
  const auto out = bytes_.subspan(at_, static_cast<size_t>(bytes));
  at_ += static_cast<size_t>(bytes);
  return out;
}

template <class T>
Result<T> Pickle::number() {
  T v;
  std::memcpy(&v, TRY(take(sizeof v)).data(), sizeof v);
  return v;
}

Result<std::string_view> Pickle::line() {
  const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_);
  const size_t n = rest.substr(0, 4096).find('\n');
  if (n == rest.npos) return wrong("the pickle has no end of line where a name ends");
  at_ += n + 1;
  return rest.substr(0, n);
}

Result<uint32_t> Pickle::add(PickleNode node) {
  if (nodes_.size() >= kMaxNodes) return wrong(cat("the pickle has more than ", kMaxNodes, " values"));
  nodes_.push_back(std::move(node));
  return static_cast<uint32_t>(nodes_.size() - 1);
}

Status Pickle::push(PickleNode node) {
  stack_.push_back(TRY(add(std::move(node))));
  return {};
}

Status Pickle::push_text(Kind kind, uint64_t bytes) {
  const auto b = TRY(take(bytes));
  return push({.kind = kind, .text = {reinterpret_cast<const char*>(b.data()), b.size()}});
}

Status Pickle::push_global(std::string_view module, std::string_view name) {
  for (size_t i = 0; i < std::size(kGlobals); ++i)
    if (module == kGlobals[i].module && name == kGlobals[i].name) return push({.kind = Kind::kGlobal, .integer = static_cast<int64_t>(i)});
  return Error(Code::kUnsupported,
               cat(what_, ": the pickle uses the global '", module, ".", name, "' at byte ", opcode_at_,
                   "; only tensors, plain containers and OrderedDict are read (save the state dict alone, or as safetensors)"));
}

Status Pickle::push_long(uint64_t bytes) {
  if (bytes > 8) return push_text(Kind::kBigInt, bytes);
  const auto b = TRY(take(bytes));
  uint64_t v = 0;
  for (size_t i = 0; i < b.size(); ++i) v |= std::to_integer<uint64_t>(b[i]) << (8 * i);
  if (!b.empty() && b.size() < 8 && std::to_integer<int>(b.back()) & 0x80) v |= ~uint64_t{0} << (8 * b.size());
  return push({.kind = Kind::kInt, .integer = static_cast<int64_t>(v)});
}

Result<uint32_t> Pickle::pop() {
  if (stack_.empty() || (!marks_.empty() && stack_.size() == marks_.back())) return wrong("the opcode wants a value on the stack, there is none");
  const uint32_t v = stack_.back();
  stack_.pop_back();
  return v;
}

Result<std::vector<uint32_t>> Pickle::pop_to_mark() {
  if (marks_.empty()) return wrong("the opcode wants a mark on the stack, there is none");
  const auto begin = stack_.begin() + static_cast<ptrdiff_t>(marks_.back());
  std::vector<uint32_t> items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

Status Pickle::push_tuple(size_t count) {
  std::vector<uint32_t> items(count);
  for (size_t i = count; i-- > 0;) items[i] = TRY(pop());
  return push({.kind = Kind::kTuple, .items = std::move(items)});
}

Status Pickle::set_items(std::vector<uint32_t> items) {
  const uint32_t target = TRY(pop());
  stack_.push_back(target);
  PickleNode& d = nodes_[target];
  if (d.kind != Kind::kDict) return wrong(cat("items are set in a ", kind_name(d.kind), ", want a dict"));
  if (items.size() % 2 != 0) return wrong("a dict key has no value");
  d.items.insert(d.items.end(), items.begin(), items.end());
  return {};
}

Status Pickle::append_items(Kind kind, std::vector<uint32_t> items) {
  const uint32_t target = TRY(pop());
  stack_.push_back(target);
  PickleNode& d = nodes_[target];
  if (d.kind != kind) return wrong(cat("items are added to a ", kind_name(d.kind), ", want a ", kind_name(kind)));
  d.items.insert(d.items.end(), items.begin(), items.end());
  return {};
}

Status Pickle::put(uint64_t key) {
  const uint32_t v = TRY(pop());
  stack_.push_back(v);
  memo_[key] = v;
  return {};
}

Status Pickle::get(uint64_t key) {
  auto it = memo_.find(key);
  if (it == memo_.end()) return wrong(cat("memo entry ", key, " is read before it is written"));
  stack_.push_back(it->second);
  return {};
}

Result<int64_t> Pickle::integer(uint32_t node, std::string_view what) const {
  const PickleNode& n = nodes_[node];
  if (n.kind != Kind::kInt) return wrong(cat(what, " is a ", kind_name(n.kind), ", want an int"));
  return n.integer;
}

Result<std::vector<int64_t>> Pickle::integers(uint32_t node, std::string_view what) const {
  const PickleNode& n = nodes_[node];
  if (n.kind != Kind::kTuple && n.kind != Kind::kList) return wrong(cat(what, " is a ", kind_name(n.kind), ", want a tuple of ints"));
  if (n.items.size() > static_cast<size_t>(Shape::kMaxRank)) return wrong(cat(what, " has ", n.items.size(), " elements, want at most ", int{Shape::kMaxRank}));
  std::vector<int64_t> out;
  for (uint32_t i : n.items) out.push_back(TRY(integer(i, what)));
  return out;
}

// ("storage", type, key, location, elements[, view]) with view None or (key, offset, elements).
Status Pickle::persistent_id() {
  const PickleNode& id = nodes_[TRY(pop())];
  const auto kind = [&](size_t i) { return nodes_[id.items[i]].kind; };
  if (id.kind != Kind::kTuple || id.items.size() < 5 || id.items.size() > 6 || kind(0) != Kind::kString || nodes_[id.items[0]].text != "storage" ||
      kind(1) != Kind::kGlobal || kGlobals[nodes_[id.items[1]].integer].global != kStorageType || kind(2) != Kind::kString)
    return wrong("the persistent id is no storage, want ('storage', type, key, location, elements)");
  TorchStorage s;
  s.dtype = kGlobals[nodes_[id.items[1]].integer].dtype;
  if (nodes_[id.items[2]].text.size() > kMaxKeyBytes) return wrong(cat("a storage key has ", nodes_[id.items[2]].text.size(), " bytes"));
  s.key = nodes_[id.items[2]].text;
  s.elements = TRY(integer(id.items[4], "the element count of a storage"));
  if (s.elements < 0) return wrong(cat("storage '", s.key, "' has ", s.elements, " elements"));
  s.view_elements = s.elements;
  if (id.items.size() == 6 && kind(5) != Kind::kNone) {
    const PickleNode& view = nodes_[id.items[5]];
    if (view.kind != Kind::kTuple || view.items.size() != 3) return wrong(cat("the view of storage '", s.key, "' is no (key, offset, elements)"));
    s.view_offset = TRY(integer(view.items[1], "the offset of a storage view"));
    s.view_elements = TRY(integer(view.items[2], "the element count of a storage view"));
    if (s.view_offset < 0 || s.view_elements < 0 || s.view_offset > s.elements || s.view_elements > s.elements - s.view_offset)
      return wrong(cat("a view of storage '", s.key, "' has elements [", s.view_offset, ", ", s.view_offset, " + ", s.view_elements, "), the storage has ", s.elements));
  }
  storages_.push_back(std::move(s));
  return push({.kind = Kind::kStorage, .integer = static_cast<int64_t>(storages_.size()) - 1});
}

Status Pickle::rebuild_tensor(int global, uint32_t args_at) {
  const PickleNode& args = nodes_[args_at];
  const size_t least = global == kRebuildTensor ? 4 : global == kRebuildTensorV2 ? 6 : 7;
  if (args.items.size() < least || nodes_[args.items[0]].kind != Kind::kStorage)
    return wrong(cat("a tensor is rebuilt from ", args.items.size(), " arguments, want at least ", least, " with a storage first"));
  TorchTensor t;
  t.storage = storages_[static_cast<size_t>(nodes_[args.items[0]].integer)];
  t.dtype = t.storage.dtype;
  t.offset = TRY(integer(args.items[1], "a storage offset"));
  const std::vector<int64_t> shape = TRY(integers(args.items[2], "a tensor's size"));
  t.stride = TRY(integers(args.items[3], "a tensor's stride"));
  if (t.stride.size() != shape.size()) return wrong(cat("a tensor has size ", shape, " and stride ", t.stride));
  Result<Shape> s = Shape::from(shape);
  if (!s.ok()) return wrong(s.error().message());
  t.shape = *s;
  if (global == kRebuildTensorV3) {
    const PickleNode& dtype = nodes_[args.items[6]];
    if (dtype.kind != Kind::kGlobal || kGlobals[dtype.integer].global != kTorchDtype) return wrong(cat("a tensor's dtype is a ", kind_name(dtype.kind)));
    t.dtype = kGlobals[dtype.integer].dtype;
  }
  tensors_.push_back(std::move(t));
  return push({.kind = Kind::kTensor, .integer = static_cast<int64_t>(tensors_.size()) - 1});
}

// OrderedDict(), or OrderedDict([[key, value], ...]).
Status Pickle::make_dict(uint32_t args_at) {
  const PickleNode& args = nodes_[args_at];
  PickleNode d{.kind = Kind::kDict};
  if (!args.items.empty()) {
    copied_items_ += nodes_[args.items[0]].items.size();
    if (copied_items_ > kMaxNodes) return wrong(cat("the pickle copies more than ", kMaxNodes, " values"));
    for (uint32_t pair : nodes_[args.items[0]].items) {
      const PickleNode& p = nodes_[pair];
      if ((p.kind != Kind::kTuple && p.kind != Kind::kList) || p.items.size() != 2) return wrong("an OrderedDict is made of something else than pairs");
      d.items.insert(d.items.end(), p.items.begin(), p.items.end());
    }
  }
  return push(std::move(d));
}

Status Pickle::reduce() {
  const uint32_t args_at = TRY(pop()), callable_at = TRY(pop());
  const PickleNode &args = nodes_[args_at], &callable = nodes_[callable_at];
  if (callable.kind != Kind::kGlobal || args.kind != Kind::kTuple)
    return wrong(cat("REDUCE calls a ", kind_name(callable.kind), " with a ", kind_name(args.kind), ", want a global and a tuple"));
  const Global global = kGlobals[callable.integer].global;
  switch (global) {
    case kOrderedDict: return make_dict(args_at);
    case kRebuildTensor:
    case kRebuildTensorV2:
    case kRebuildTensorV3: return rebuild_tensor(global, args_at);
    case kRebuildParameter:
      if (args.items.empty() || nodes_[args.items[0]].kind != Kind::kTensor) return wrong("a parameter is rebuilt from something else than a tensor");
      stack_.push_back(args.items[0]);
      return {};
    case kSize:
      if (args.items.size() != 1) return wrong("torch.Size is called without a tuple");
      stack_.push_back(args.items[0]);
      return {};
    default: return wrong(cat("the pickle calls '", global_name(callable.integer), "', which makes no value"));
  }
}

// State of an OrderedDict subclass (PyTorch's `_metadata`): of no use here.
Status Pickle::build() {
  TRY(pop());
  const uint32_t target = TRY(pop());
  if (nodes_[target].kind != Kind::kDict) return wrong(cat("BUILD sets the state of a ", kind_name(nodes_[target].kind), ", want an OrderedDict"));
  stack_.push_back(target);
  return {};
}

Result<bool> Pickle::step(uint8_t opcode) {
  const auto done = [](Status s) -> Result<bool> { return s.ok() ? Result<bool>(false) : Result<bool>(s.error()); };
  switch (opcode) {
    case 0x80: {  // PROTO
      const int protocol = TRY(number<uint8_t>());
      if (protocol > 5) return wrong(cat("the pickle has protocol ", protocol, ", want at most 5"));
      return false;
    }
    case 0x95: TRY(number<uint64_t>()); return false;  // FRAME
    case '.': return true;
    case '(': marks_.push_back(stack_.size()); return false;
    case 'N': return done(push({}));
    case 0x88: return done(push({.kind = Kind::kBool, .integer = 1}));
    case 0x89: return done(push({.kind = Kind::kBool, .integer = 0}));
    case 'J': return done(push({.kind = Kind::kInt, .integer = TRY(number<int32_t>())}));
    case 'K': return done(push({.kind = Kind::kInt, .integer = TRY(number<uint8_t>())}));
    case 'M': return done(push({.kind = Kind::kInt, .integer = TRY(number<uint16_t>())}));
    case 0x8a: return done(push_long(TRY(number<uint8_t>())));
    case 0x8b: return done(push_long(TRY(number<uint32_t>())));
    case 'G': return done(push({.kind = Kind::kFloat, .number = std::bit_cast<double>(__builtin_bswap64(TRY(number<uint64_t>())))}));
    case 'X': return done(push_text(Kind::kString, TRY(number<uint32_t>())));
    case 0x8c: return done(push_text(Kind::kString, TRY(number<uint8_t>())));
    case 0x8d: return done(push_text(Kind::kString, TRY(number<uint64_t>())));
    case 'T': return done(push_text(Kind::kString, TRY(number<uint32_t>())));
    case 'U': return done(push_text(Kind::kString, TRY(number<uint8_t>())));
    case 'B': return done(push_text(Kind::kBytes, TRY(number<uint32_t>())));
    case 'C': return done(push_text(Kind::kBytes, TRY(number<uint8_t>())));
    case 0x8e: return done(push_text(Kind::kBytes, TRY(number<uint64_t>())));
    case ')': return done(push({.kind = Kind::kTuple}));
    case ']': return done(push({.kind = Kind::kList}));
    case '}': return done(push({.kind = Kind::kDict}));
    case 0x8f: return done(push({.kind = Kind::kSet}));
    case 't': return done(push({.kind = Kind::kTuple, .items = TRY(pop_to_mark())}));
    case 0x85: return done(push_tuple(1));
    case 0x86: return done(push_tuple(2));
    case 0x87: return done(push_tuple(3));
    case 's': {
      const uint32_t value = TRY(pop()), key = TRY(pop());
      return done(set_items({key, value}));
    }
    case 'u': return done(set_items(TRY(pop_to_mark())));
    case 'a': return done(append_items(Kind::kList, {TRY(pop())}));
    case 'e': return done(append_items(Kind::kList, TRY(pop_to_mark())));
    case 0x90: return done(append_items(Kind::kSet, TRY(pop_to_mark())));
    case 'q': return done(put(TRY(number<uint8_t>())));
    case 'r': return done(put(TRY(number<uint32_t>())));
    case 0x94: return done(put(memo_.size()));
    case 'h': return done(get(TRY(number<uint8_t>())));
    case 'j': return done(get(TRY(number<uint32_t>())));
    case 'c': {
      const std::string_view module = TRY(line());
      return done(push_global(module, TRY(line())));
    }
    case 0x93: {  // STACK_GLOBAL
      const uint32_t name = TRY(pop()), module = TRY(pop());
      if (nodes_[name].kind != Kind::kString || nodes_[module].kind != Kind::kString) return wrong("STACK_GLOBAL wants two strings");
      return done(push_global(nodes_[module].text, nodes_[name].text));
    }
    case 'Q': return done(persistent_id());
    case 'R': return done(reduce());
    case 'b': return done(build());
    default: break;
  }
  const char digits[] = "0123456789abcdef";
  return Error(Code::kUnsupported, cat(what_, ": the pickle uses opcode 0x", digits[opcode >> 4], digits[opcode & 15], " at byte ", opcode_at_,
                                       ", which tensors and plain containers do not need"));
}

Result<uint32_t> Pickle::load() {
  stack_.clear();
  marks_.clear();
  memo_.clear();
  for (;;) {
    opcode_at_ = at_;
    const uint8_t opcode = TRY(number<uint8_t>());
    if (TRY(step(opcode))) break;
  }
  const uint32_t root = TRY(pop());
  if (!stack_.empty() || !marks_.empty()) return wrong(cat("the pickle stops with ", stack_.size(), " more values on the stack"));
  return root;
}

struct Pickle::Walk {
  std::vector<TorchTensor> out;
  std::unordered_map<uint32_t, int64_t> seen;  // container -> tensors below it
};

Result<int64_t> Pickle::collect(uint32_t node, const std::string& name, int depth, Walk& walk) const {
  const PickleNode& n = nodes_[node];
  if (n.kind == Kind::kTensor) {
    walk.out.push_back(tensors_[static_cast<size_t>(n.integer)]);
    walk.out.back().name = name;
    if (walk.out.size() > tensors_.size() + nodes_.size()) return wrong("the pickle names more tensors than it has values");
    return 1;
  }
  const bool dict = n.kind == Kind::kDict;
  if (!dict && n.kind != Kind::kList && n.kind != Kind::kTuple) return 0;
  if (depth > kMaxDepth) return wrong(cat("containers are nested deeper than ", kMaxDepth));
  if (auto [it, fresh] = walk.seen.emplace(node, 0); !fresh) {
    if (it->second > 0) return wrong(cat("the container at '", name, "' with ", it->second, " tensors is also elsewhere in the pickle"));
    return 0;
  }
  int64_t found = 0;
  for (size_t i = 0; i < n.items.size(); i += dict ? 2 : 1) {
    const PickleNode& key = nodes_[n.items[i]];
    if (name.size() + key.text.size() > kMaxNameBytes) return wrong(cat("a name below '", name, "' has more than ", kMaxNameBytes, " bytes"));
    const std::string part = !dict                     ? cat(i)
                             : key.kind == Kind::kInt ? cat(key.integer)
                                                      : std::string(key.kind == Kind::kString ? key.text : "?");
    const int64_t below = TRY(collect(n.items[dict ? i + 1 : i], name.empty() ? part : cat(name, ".", part), depth + 1, walk));
    if (below > 0 && dict && key.kind != Kind::kString && key.kind != Kind::kInt)
      return wrong(cat("a tensor below '", name, "' has a ", kind_name(key.kind), " as key, want a string"));
    found += below;
  }
  walk.seen[node] = found;
  return found;
}

Result<std::vector<TorchTensor>> Pickle::tensors(uint32_t root) const {
  const PickleNode& n = nodes_[root];
  if (n.kind != Kind::kDict && n.kind != Kind::kList && n.kind != Kind::kTuple)
    return Error(Code::kInvalidArgument, cat(what_, " holds a ", kind_name(n.kind), ", want a state dict (names -> tensors)"));
  Walk walk;
  TRY(collect(root, "", 0, walk));
  return std::move(walk.out);
}

}  // namespace ingot::formats
