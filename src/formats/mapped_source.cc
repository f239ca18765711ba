#include <cstring>

#include "formats/internal/mapped_source.h"

namespace ingot::formats {

const char* kind_name(SourceKind kind) {
  switch (kind) {
    case SourceKind::kSafetensors: return "safetensors";
    case SourceKind::kGguf: return "GGUF";
    case SourceKind::kTorch: return "PyTorch";
    case SourceKind::kMeta: return "Meta consolidated";
  }
  return "unknown";
}

Result<int64_t> checked_bytes(DType dtype, const Shape& shape, std::string_view what) {
  const DTypeInfo& info = dtype_info(dtype);
  const int64_t elements = shape.elements();
  if (elements > (int64_t{1} << 56))
    return Error(Code::kInvalidArgument, cat(what, " has shape ", str(shape), ": more elements than any file holds"));
  const int64_t row = shape.rank() == 0 ? 1 : shape[-1];
  if (row % info.block_elements != 0)
    return Error(Code::kInvalidArgument, cat(what, " has shape ", str(shape), ", but type ", info.name, " stores blocks of ", info.block_elements,
                                             " elements along the last axis"));
  return storage_bytes(dtype, elements);
}

int MappedSource::add_file(MappedFile file) {
  files_.push_back(std::move(file));
  return static_cast<int>(files_.size()) - 1;
}

Status MappedSource::add(Entry e) {
  Slot slot{this, e.file, e.offset, e.bytes, std::move(e.make)};
  if (e.file >= 0) {
    const auto bytes = file(e.file).bytes();
    CHECK(e.offset <= bytes.size() && e.bytes <= bytes.size() - e.offset, e.info.name);
    const auto size = static_cast<uintptr_t>(dtype_info(e.info.dtype).block_elements == 1 ? dtype_info(e.info.dtype).block_bytes : 1);
    if (!slot.make && reinterpret_cast<uintptr_t>(bytes.data() + e.offset) % size != 0)
      slot.make = [range = bytes.subspan(e.offset, e.bytes)]() -> Result<Bytes> { return Bytes(range.begin(), range.end()); };
  }
  if (!index_.emplace(e.info.name, slots_.size()).second)
    return Error(Code::kInvalidArgument, cat("tensor '", e.info.name, "' appears twice in ", path_));
  slots_.push_back(std::move(slot));
  infos_.push_back(std::move(e.info));
  return {};
}

Status MappedSource::adopt(std::shared_ptr<const MappedSource> other) {
  for (size_t i = 0; i < other->slots_.size(); ++i) {
    if (!index_.emplace(other->infos_[i].name, slots_.size()).second)
      return Error(Code::kInvalidArgument, cat("tensor '", other->infos_[i].name, "' of ", other->path_, " is also in another shard of ", path_));
    slots_.push_back(other->slots_[i]);
    infos_.push_back(other->infos_[i]);
  }
  adopted_.push_back(std::move(other));
  return {};
}

const TensorInfo* MappedSource::info(std::string_view name) const {
  auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &infos_[it->second];
}

Result<View> MappedSource::find(std::string_view name) const {
  auto it = index_.find(std::string(name));
  if (it == index_.end()) return Error(Code::kNotFound, cat(path_, " has no tensor '", name, "' (", infos_.size(), " tensors)"));
  const TensorInfo& info = infos_[it->second];
  const Slot& slot = slots_[it->second];
  if (!slot.make) return View{info.dtype, info.shape, slot.owner->file(slot.file).bytes().subspan(slot.offset, slot.bytes)};
  std::lock_guard lock(mutex_);
  auto made = made_.find(it->second);
  if (made == made_.end()) {
    Result<Bytes> bytes = slot.make();
    if (!bytes.ok()) return bytes.error().in(cat("tensor '", name, "' in ", path_));
    made = made_.emplace(it->second, *std::move(bytes)).first;
  }
  return View{info.dtype, info.shape, made->second};
}

void MappedSource::forget(std::string_view name) const {
  auto it = index_.find(std::string(name));
  if (it == index_.end()) return;
  const Slot& slot = slots_[it->second];
  if (slot.file >= 0) slot.owner->file(slot.file).forget(slot.offset, slot.bytes);
  if (!slot.make) return;
  std::lock_guard lock(mutex_);
  made_.erase(it->second);
}

}  // namespace ingot::formats
