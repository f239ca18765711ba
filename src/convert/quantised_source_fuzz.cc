// Fuzzes layers of published checkpoints in AWQ's, GPTQ's and fp8 form: a config, a zero byte, then tensors of a few names.
#include "convert/quantised_source.h"

#include <algorithm>

namespace {

using namespace ingot;

class Tensors : public formats::TensorSource {
 public:
  // Each tensor: its name, its type, two extents (255: 2^62, where the other one is 0) and its bytes.
  explicit Tensors(std::span<const std::byte> rest) {
    static constexpr const char* kNames[] = {"a.weight", "a.qweight", "a.qzeros", "a.scales", "a.g_idx", "a.weight_scale", "a.weight_scale_inv", "b.weight", "qweight", ".weight"};
    static constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kI32, DType::kF8E4M3, DType::kI64};
    while (rest.size() >= 4) {
      const auto number = [&](size_t i) { return std::to_integer<size_t>(rest[i]); };
      const auto extent = [&](size_t i) { return number(i) == 255 ? int64_t{1} << 62 : static_cast<int64_t>(number(i)); };
      Shape shape{extent(2), extent(3)};
      if (number(2) == 255) shape[1] = 0;
      else if (number(3) == 255) shape[0] = 0;
      if (number(0) & 128 && shape.elements() < 256) shape = Shape{shape.elements()};
      const formats::TensorInfo info{kNames[(number(0) & 127) % std::size(kNames)], kTypes[number(1) % std::size(kTypes)], shape};
      rest = rest.subspan(4);
      const auto bytes = static_cast<size_t>(storage_bytes(info.dtype, shape.elements()));
      if (bytes > rest.size()) return;
      if (!this->info(info.name)) {
        infos_.push_back(info);
        bytes_.emplace_back(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(bytes));
      }
      rest = rest.subspan(bytes);
    }
  }
  formats::SourceKind kind() const override { return formats::SourceKind::kSafetensors; }
  const std::string& path() const override { return path_; }
  std::span<const formats::TensorInfo> list() const override { return infos_; }
  const formats::TensorInfo* info(std::string_view name) const override {
    const auto it = std::find_if(infos_.begin(), infos_.end(), [&](const auto& t) { return t.name == name; });
    return it == infos_.end() ? nullptr : &*it;
  }
  Result<View> find(std::string_view name) const override {
    const formats::TensorInfo* t = info(name);
    if (!t) return Error(Code::kNotFound, std::string(name));
    return View{t->dtype, t->shape, bytes_[static_cast<size_t>(t - infos_.data())]};
  }
  void forget(std::string_view) const override {}

 private:
  const std::string path_ = "input";
  std::vector<formats::TensorInfo> infos_;
  std::vector<std::vector<std::byte>> bytes_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size), text = all.substr(0, all.find(char{0}));
  const auto json = parse_json(text, "input");
  if (!json.ok() || !json->is_object()) return 0;
  auto tensors = std::make_unique<Tensors>(std::as_bytes(std::span(data, size)).subspan(std::min(size, text.size() + 1)));
  const auto source = convert::QuantisedSource::wrap(std::move(tensors), *json, "/nowhere");
  if (!source.ok()) return 0;
  for (const formats::TensorInfo& t : (*source)->list()) {
    const Result<View> v = (*source)->find(t.name);
    if (!v.ok()) continue;
    CHECK(v->dtype == t.dtype && v->shape == t.shape && static_cast<int64_t>(v->bytes.size()) == v->storage_bytes(), t.name);
    (*source)->forget(t.name);
  }
  return 0;
}
