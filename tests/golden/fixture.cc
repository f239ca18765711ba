#include "fixture.h"

#include <cstring>

#include "base/files.h"
#include "base/random.h"
#include "formats/safetensors.h"
#include "tensor/convert.h"

namespace ingot::golden {
namespace {

Result<std::vector<float>> decode_floats(const Json& json, std::string_view key, std::string_view what) {
  const std::string text = TRY(get<std::string>(json, key, what));
  std::vector<unsigned char> bytes;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    if (c == '=') break;
    const char* const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char* at = std::strchr(alphabet, c);
    if (!at || c == 0) return Error(Code::kInvalidArgument, cat(what, ": '", key, "' is not base64"));
    bits = bits << 6 | static_cast<uint32_t>(at - alphabet);
    if ((count += 6) >= 8) bytes.push_back(static_cast<unsigned char>(bits >> (count -= 8)));
  }
  std::vector<float> out(bytes.size() / 4);
  std::memcpy(out.data(), bytes.data(), out.size() * 4);
  return out;
}

Result<Prompt> read_prompt(const Json& p, std::string_view what) {
  Prompt out;
  out.ids = TRY(get<std::vector<int32_t>>(p, "ids", what));
  out.greedy = TRY(get<std::vector<int32_t>>(p, "greedy", what));
  out.logits = TRY(decode_floats(p, "logits", what));
  out.bf16_logits = TRY(decode_floats(p, "bf16_logits", what));
  // Dynamic NTK: a token takes the scaling of its own position when it is decoded, as in Transformers' cached generation.
  out.growing_rope = p.contains("greedy_growing_rope");
  if (out.growing_rope) out.greedy = TRY(get<std::vector<int32_t>>(p, "greedy_growing_rope", what));
  else out.last_logits = TRY(decode_floats(p, "last_logits", what));
  out.positions = TRY(get<std::vector<int>>(p, "positions", what));
  out.min_gap = TRY(get<double>(p, "min_gap", what));
  if (!p.contains("hidden") || !p["hidden"].is_array()) return Error(Code::kInvalidArgument, cat(what, ": 'hidden' is no array"));
  for (const Json& layer : p["hidden"]) {
    Json wrapped = Json::object();
    wrapped["hidden"] = layer;
    out.hidden.push_back(TRY(decode_floats(wrapped, "hidden", what)));
  }
  return out;
}

}  // namespace

Result<Fixture> read_fixture(const std::string& directory) {
  const std::string what = join_path(directory, "fixture.json");
  const Json json = TRY(parse_json(TRY(read_file(what)), what));
  Fixture f;
  f.directory = directory;
  f.name = base_name(directory);
  f.seed = TRY(get<uint64_t>(json, "seed", what));
  if (json.contains("options")) f.model_version = TRY(get_or<std::string>(json["options"], "model_version", "", what));
  if (!json.contains("tensors") || !json.contains("prompts")) return Error(Code::kInvalidArgument, cat(what, " has no tensors or prompts"));
  for (const Json& t : json["tensors"]) {
    Tensor tensor;
    tensor.name = TRY(get<std::string>(t, "name", what));
    const std::vector<int64_t> extents = TRY(get<std::vector<int64_t>>(t, "shape", what));
    tensor.shape = TRY(Shape::from(extents));
    tensor.mean = TRY(get<double>(t, "mean", what));
    tensor.std = TRY(get<double>(t, "std", what));
    f.tensors.push_back(std::move(tensor));
  }
  for (const Json& p : json["prompts"]) f.prompts.push_back(TRY(read_prompt(p, what)));
  return f;
}

Status write_published(const Fixture& f, const std::string& directory, DType dtype) {
  TRY(make_directories(directory));
  const std::string config = TRY(read_file(join_path(f.directory, "config.json")));
  TRY(write_file(join_path(directory, "config.json"), config));
  formats::SafetensorsWriter writer;
  for (const Tensor& t : f.tensors) TRY(writer.declare(t.name, dtype, t.shape));
  TRY(writer.begin(join_path(directory, "model.safetensors")));
  uint64_t hash = 0, first = 0;
  for (const Tensor& t : f.tensors) {
    std::vector<float> values(static_cast<size_t>(t.shape.elements()));
    NormalTensor(f.seed, t.name, t.mean, t.std).fill(0, values);
    hash += hash_floats(values, first);
    first += values.size();
    std::vector<std::byte> bytes(static_cast<size_t>(storage_bytes(dtype, t.shape.elements())));
    TRY(from_float(values, dtype, bytes));
    TRY(writer.write(t.name, 0, bytes));
  }
  const std::string what = join_path(f.directory, "fixture.json");
  const Json json = TRY(parse_json(TRY(read_file(what)), what));
  const std::string want = TRY(get<std::string>(json, "weights_hash", what));
  char found[17];
  std::snprintf(found, sizeof found, "%016llx", static_cast<unsigned long long>(hash));
  if (want != found) return Error(Code::kInternal, cat(what, ": the generated weights have hash ", found, ", want ", want));
  return writer.finish();
}

double nmse(std::span<const double> found, std::span<const float> want) {
  CHECK(found.size() == want.size(), found.size(), " values, want ", want.size());
  double error = 0, power = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (found[i] - want[i]) * (found[i] - want[i]);
    power += double{want[i]} * want[i];
  }
  return power > 0 ? error / power : error;
}

}  // namespace ingot::golden
