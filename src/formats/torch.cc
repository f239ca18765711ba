#include "formats/torch.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "formats/internal/mapped_source.h"
#include "formats/internal/pickle.h"
#include "formats/internal/zip.h"

namespace ingot::formats {
namespace {

constexpr size_t kMaxPickleBytes = size_t{256} << 20;
constexpr std::string_view kLegacyMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";  // 0x1950a86a20f9469cfc6c, little endian
constexpr int64_t kLegacyProtocol = 1001;

struct StorageData {
  size_t offset = 0, bytes = 0;  // of the plain bytes in the file; for a deflated entry of the compressed ones
  ZipEntry deflated;             // name "" when plain
};

using StorageMap = std::map<std::string, StorageData>;

int64_t element_bytes(DType d) { return dtype_info(d).block_bytes; }

// One past the last element that the tensor touches, in elements of its dtype; -1 on overflow.
int64_t touched(const TorchTensor& t) {
  if (t.shape.elements() == 0) return 0;
  int64_t last = t.offset;
  for (int i = 0; i < t.shape.rank(); ++i) {
    int64_t step = 0;
    if (__builtin_mul_overflow(t.shape[i] - 1, t.stride[static_cast<size_t>(i)], &step) || __builtin_add_overflow(last, step, &last)) return -1;
  }
  return last == INT64_MAX ? -1 : last + 1;
}

bool is_contiguous(const TorchTensor& t) {
  int64_t want = 1;
  for (int i = t.shape.rank(); i-- > 0;) {
    if (t.shape[i] != 1 && t.stride[static_cast<size_t>(i)] != want) return false;
    want *= t.shape[i];
  }
  return true;
}

// The tensor's elements in row-major order, from the bytes of its storage view.
MappedSource::Bytes gather(const TorchTensor& t, std::span<const std::byte> storage) {
  const auto size = static_cast<size_t>(element_bytes(t.dtype));
  const int64_t elements = t.shape.elements();
  MappedSource::Bytes out(static_cast<size_t>(elements) * size);
  std::vector<int64_t> index(static_cast<size_t>(t.shape.rank()));
  int64_t from = t.offset;
  for (int64_t e = 0; e < elements; ++e) {
    std::memcpy(out.data() + static_cast<size_t>(e) * size, storage.data() + static_cast<size_t>(from) * size, size);
    for (int i = t.shape.rank(); i-- > 0;) {
      from += t.stride[static_cast<size_t>(i)];
      if (++index[static_cast<size_t>(i)] < t.shape[i]) break;
      from -= t.stride[static_cast<size_t>(i)] * t.shape[i];
      index[static_cast<size_t>(i)] = 0;
    }
  }
  return out;
}

Status add_tensor(MappedSource& source, int file, TorchTensor t, const StorageMap& storages) {
  const std::string what = cat("tensor '", t.name, "' in ", source.path());
  const auto found = storages.find(t.storage.key);
  if (found == storages.end()) return Error(Code::kInvalidArgument, cat(what, " lies in storage '", t.storage.key, "', which the file does not hold"));
  const StorageData& data = found->second;
  const int64_t storage_size = element_bytes(t.storage.dtype), size = element_bytes(t.dtype);
  const size_t have = data.deflated.name.empty() ? data.bytes : data.deflated.bytes;
  if (t.storage.elements > static_cast<int64_t>(have) / storage_size)
    return Error(Code::kInvalidArgument, cat(what, ": storage '", t.storage.key, "' declares ", t.storage.elements, " elements of ", storage_size,
                                             " bytes, the file holds ", have, " bytes"));
  const int64_t room = t.storage.view_elements * storage_size / size, end = touched(t);
  if (t.offset < 0 || std::any_of(t.stride.begin(), t.stride.end(), [](int64_t s) { return s < 0; }) || end < 0 || end > room)
    return Error(Code::kInvalidArgument, cat(what, " has shape ", str(t.shape), ", stride ", t.stride, " and offset ", t.offset,
                                             ", which reach beyond its storage of ", room, " elements"));
  const int64_t elements = t.shape.elements();
  // Expanded tensors repeat elements; more than a small multiple of the storage is no weight.
  if (elements > std::max<int64_t>(int64_t{1} << 24, room))
    return Error(Code::kInvalidArgument, cat(what, " has ", elements, " elements over a storage of ", room, " (expanded?), want at most its own"));

  MappedSource::Entry e;
  e.info = {t.name, t.dtype, t.shape};
  e.file = file;
  e.offset = data.offset;
  e.bytes = data.bytes;
  const auto view_bytes = static_cast<size_t>(t.storage.view_elements * storage_size), view_begin = static_cast<size_t>(t.storage.view_offset * storage_size);
  const auto archive = source.file(file).bytes();
  if (!data.deflated.name.empty()) {
    e.make = [t, archive, entry = data.deflated, view_begin, view_bytes, path = source.path()]() -> Result<MappedSource::Bytes> {
      const std::vector<std::byte> storage = TRY(read_entry(archive, entry, path));
      return gather(t, std::span(storage).subspan(view_begin, view_bytes));
    };
  } else if (elements == 0 || is_contiguous(t)) {
    e.offset += elements == 0 ? 0 : view_begin + static_cast<size_t>(t.offset * size);
    e.bytes = static_cast<size_t>(elements * size);
  } else {
    e.offset += view_begin;
    e.bytes = view_bytes;
    e.make = [t, storage = archive.subspan(e.offset, e.bytes)]() -> Result<MappedSource::Bytes> { return gather(t, storage); };
  }
  return source.add(std::move(e));
}

Result<std::unique_ptr<MappedSource>> open_zip(MappedFile mapped, const std::string& path) {
  const std::vector<ZipEntry> entries = TRY(read_zip(mapped.bytes(), path));
  const ZipEntry* pickle = nullptr;
  std::string root;
  for (const ZipEntry& e : entries)
    if (e.name == "data.pkl" || (e.name.ends_with("/data.pkl") && std::count(e.name.begin(), e.name.end(), '/') == 1)) {
      pickle = &e;
      root = e.name.substr(0, e.name.size() - std::string_view("data.pkl").size());
    }
  if (!pickle) return Error(Code::kInvalidArgument, cat(path, " is a zip archive without data.pkl, want a file written by torch.save"));
  if (pickle->bytes > kMaxPickleBytes)
    return Error(Code::kInvalidArgument, cat("'", pickle->name, "' in ", path, " has ", pickle->bytes, " bytes, want at most ", kMaxPickleBytes));
  StorageMap storages;
  for (const ZipEntry& e : entries) {
    if (e.name == root + "byteorder") {
      const std::vector<std::byte> order = TRY(read_entry(mapped.bytes(), e, path));
      const std::string_view text(reinterpret_cast<const char*>(order.data()), order.size());
      if (text != "little") return Error(Code::kUnsupported, cat(path, " has byte order '", text.substr(0, 20), "', want little"));
    }
    if (!e.name.starts_with(root + "data/")) continue;
    if (!storages.emplace(e.name.substr(root.size() + 5), StorageData{e.offset, e.compressed, e.deflated ? e : ZipEntry{}}).second)
      return Error(Code::kInvalidArgument, cat("entry '", e.name, "' appears twice in ", path));
  }
  const std::vector<std::byte> text = TRY(read_entry(mapped.bytes(), *pickle, path));
  Pickle p(text, cat(path, ": ", pickle->name));
  std::vector<TorchTensor> tensors = TRY(p.tensors(TRY(p.load())));
  auto source = std::make_unique<MappedSource>(SourceKind::kTorch, path);
  const int file = source->add_file(std::move(mapped));
  for (TorchTensor& t : tensors) TRY(add_tensor(*source, file, std::move(t), storages));
  return source;
}

// Magic, protocol, system info, the object, the list of storage keys: five pickles; then for each key its element count and bytes.
Result<std::unique_ptr<MappedSource>> open_legacy(MappedFile mapped, const std::string& path) {
  const auto bytes = mapped.bytes();
  Pickle p(bytes, path);
  using Kind = PickleNode::Kind;
  const auto wrong = [&](std::string_view what) { return Error(Code::kInvalidArgument, cat(path, " is no legacy PyTorch file: ", what)); };
  const uint32_t magic = TRY(p.load());
  if (p.nodes()[magic].kind != Kind::kBigInt || p.nodes()[magic].text != kLegacyMagic) return wrong("it does not begin with the magic number");
  const uint32_t protocol = TRY(p.load());
  if (p.nodes()[protocol].kind != Kind::kInt || p.nodes()[protocol].integer != kLegacyProtocol) return wrong("its protocol is not 1001");
  const uint32_t info = TRY(p.load());
  for (size_t i = 0; i + 1 < p.nodes()[info].items.size(); i += 2)
    if (p.nodes()[p.nodes()[info].items[i]].text == "little_endian" && p.nodes()[p.nodes()[info].items[i + 1]].integer != 1)
      return Error(Code::kUnsupported, cat(path, " was written on a big-endian machine"));
  const uint32_t root = TRY(p.load());
  const uint32_t keys = TRY(p.load());
  if (p.nodes()[keys].kind != Kind::kList) return wrong("it has no list of storage keys");
  std::map<std::string_view, const TorchStorage*> known;
  for (const TorchStorage& s : p.storages()) known[s.key] = &s;
  StorageMap storages;
  size_t at = p.at();
  for (uint32_t k : p.nodes()[keys].items) {
    const std::string key(p.nodes()[k].text);
    const auto it = known.find(key);
    if (it == known.end()) return wrong(cat("storage key '", key, "' belongs to no tensor"));
    int64_t elements = 0;
    if (bytes.size() - at < 8) return wrong(cat("it ends before storage '", key, "'"));
    std::memcpy(&elements, bytes.data() + at, 8);
    at += 8;
    const int64_t size = element_bytes(it->second->dtype);
    if (elements < 0 || elements > static_cast<int64_t>(bytes.size() - at) / size)
      return wrong(cat("storage '", key, "' has ", elements, " elements of ", size, " bytes, ", bytes.size() - at, " bytes are left"));
    const size_t n = static_cast<size_t>(elements * size);
    if (!storages.emplace(key, StorageData{at, n, {}}).second) return wrong(cat("storage '", key, "' appears twice"));
    at += n;
  }
  std::vector<TorchTensor> tensors = TRY(p.tensors(root));
  auto source = std::make_unique<MappedSource>(SourceKind::kTorch, path);
  const int file = source->add_file(std::move(mapped));
  for (TorchTensor& t : tensors) TRY(add_tensor(*source, file, std::move(t), storages));
  return source;
}

Result<std::unique_ptr<MappedSource>> open_mapped(const std::string& path) {
  MappedFile mapped = TRY(MappedFile::open(path));
  if (looks_like_zip(mapped.bytes())) return open_zip(std::move(mapped), path);
  if (looks_like_torch(mapped.bytes())) return open_legacy(std::move(mapped), path);
  return Error(Code::kInvalidArgument, cat(path, " is no file written by torch.save: neither a zip archive nor a pickle with PyTorch's magic number"));
}

// The axis along which the parts of a tensor are joined; -1: they are equal.
Result<int> join_axis(const TensorInfo& info, int64_t hidden, const std::string& path) {
  if (info.shape.rank() < 2) return -1;
  const size_t dot = info.name.rfind('.');
  const std::string_view layer = std::string_view(info.name).substr(0, dot == info.name.npos ? info.name.size() : dot);
  const auto is = [&](std::string_view name) { return layer == name || layer.ends_with(cat(".", name)); };
  for (const char* name : {"wq", "wk", "wv", "w1", "w3", "output"})
    if (is(name)) return 0;
  for (const char* name : {"wo", "w2"})
    if (is(name)) return 1;
  if (is("tok_embeddings")) return info.shape[1] == hidden ? 0 : 1;
  return Error(Code::kUnsupported, cat("tensor '", info.name, "' in ", path, " is split over several files along an unknown axis, want the names of Meta's Llama"));
}

Result<MappedSource::Bytes> join(const std::vector<std::shared_ptr<MappedSource>>& parts, const std::string& name, int axis) {
  std::vector<View> views;
  size_t total = 0;
  for (const auto& p : parts) {
    views.push_back(TRY(p->find(name)));
    total += views.back().bytes.size();
    if (axis < 0) return MappedSource::Bytes(views[0].bytes.begin(), views[0].bytes.end());
  }
  MappedSource::Bytes out;
  out.reserve(total);
  const size_t rows = axis == 0 ? 1 : static_cast<size_t>(views[0].shape[0]);
  for (size_t r = 0; r < rows; ++r)
    for (const View& v : views) {
      const auto row = v.bytes.subspan(v.bytes.size() / rows * r, v.bytes.size() / rows);
      out.insert(out.end(), row.begin(), row.end());
    }
  for (const auto& p : parts) p->forget(name);
  return out;
}

}  // namespace

bool looks_like_torch(std::span<const std::byte> head) {
  if (looks_like_zip(head)) return true;
  const std::string_view text(reinterpret_cast<const char*>(head.data()), std::min<size_t>(head.size(), 64));
  return text.size() > 2 && text[0] == '\x80' && text.find(kLegacyMagic) != text.npos;
}

Result<std::unique_ptr<TensorSource>> open_torch(const std::string& path) { return std::unique_ptr<TensorSource>(TRY(open_mapped(path))); }

Result<std::unique_ptr<TensorSource>> open_torch_shards(const std::vector<std::string>& files, const std::string& path) {
  auto all = std::make_unique<MappedSource>(SourceKind::kTorch, path);
  for (const std::string& file : files) TRY(all->adopt(std::shared_ptr<MappedSource>(TRY(open_mapped(file)))));
  return std::unique_ptr<TensorSource>(std::move(all));
}

Result<std::unique_ptr<TensorSource>> open_meta(const std::vector<std::string>& files, const std::string& path) {
  CHECK(!files.empty(), path);
  auto all = std::make_unique<MappedSource>(SourceKind::kMeta, path);
  std::vector<std::shared_ptr<MappedSource>> parts;
  for (const std::string& file : files) parts.push_back(TRY(open_mapped(file)));
  if (parts.size() == 1) {
    TRY(all->adopt(parts[0]));
    return std::unique_ptr<TensorSource>(std::move(all));
  }
  const TensorInfo* norm = parts[0]->info("norm.weight");
  if (!norm || norm->shape.rank() != 1) return Error(Code::kInvalidArgument, cat(files[0], " has no vector 'norm.weight', want Meta's Llama"));
  for (const TensorInfo& first : parts[0]->list()) {
    MappedSource::Entry e;
    e.info = first;
    const int axis = TRY(join_axis(first, norm->shape[0], path));
    for (size_t i = 1; i < parts.size(); ++i) {
      const TensorInfo* other = parts[i]->info(first.name);
      if (!other) return Error(Code::kInvalidArgument, cat("tensor '", first.name, "' of ", files[0], " is missing in ", files[i]));
      Shape want = first.shape;
      if (axis >= 0 && other->shape.rank() == want.rank()) {
        want[axis] = other->shape[axis];
        e.info.shape[axis] += other->shape[axis];
      }
      if (!(other->shape == want) || other->dtype != first.dtype)
        return Error(Code::kInvalidArgument, cat("tensor '", first.name, "' in ", files[i], " is ", dtype_name(other->dtype), " ", str(other->shape), ", want ",
                                                 dtype_name(first.dtype), " ", str(want), " (as in ", files[0], ")"));
    }
    e.make = [parts, name = first.name, axis] { return join(parts, name, axis); };
    TRY(all->add(std::move(e)));
  }
  return std::unique_ptr<TensorSource>(std::move(all));
}

}  // namespace ingot::formats
