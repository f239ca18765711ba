#include "bench/dataset.h"

#include <algorithm>
#include <cmath>

#include "base/files.h"
#include "base/random.h"

namespace ingot::bench {
namespace {

constexpr int64_t kMaxLength = 1 << 24;
constexpr size_t kMaxFile = size_t{4} << 30;

Result<Sample> read_sample(const Json& j, const std::string& what) {
  if (!j.is_object()) return Error(Code::kInvalidArgument, cat(what, " is ", json_type(j), ", want an object"));
  Sample s;
  s.input_ids = TRY(get<std::vector<int32_t>>(j, "input_ids", what));
  s.output_len = TRY(get<int>(j, "output_len", what));
  s.task_id = TRY(get_or<int>(j, "task_id", -1, what));
  if (s.input_ids.empty()) return Error(Code::kInvalidArgument, cat(what, ": input_ids is empty"));
  if (s.output_len < 1 || s.output_len > kMaxLength) return Error(Code::kInvalidArgument, cat(what, ": output_len is ", s.output_len, ", want 1 .. ", kMaxLength));
  return s;
}

double uniform(uint64_t key, uint64_t i) { return static_cast<double>(random_bits(key, i) >> 11) * 0x1p-53; }

int64_t draw(const Lengths& l, uint64_t key, uint64_t i) {
  double v = 0;
  if (l.kind == Lengths::Kind::kUniform) {
    v = std::floor(l.a + uniform(key, i) * (l.b - l.a + 1));
  } else {
    const double u = std::max(uniform(key, 2 * i), 1e-300), w = uniform(key, 2 * i + 1);  // Box and Muller
    v = std::round(l.a + l.b * std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * w));
  }
  return static_cast<int64_t>(std::clamp(v, 1.0, static_cast<double>(kMaxLength)));
}

Status check(const Lengths& l, const char* what) {
  const bool uniform = l.kind == Lengths::Kind::kUniform;
  if (l.a >= 0 && l.a <= kMaxLength && l.b >= 0 && l.b <= kMaxLength && (!uniform || l.b >= l.a)) return {};
  return Error(Code::kInvalidArgument, uniform ? cat(what, " lengths are ", l.a, " .. ", l.b, ", want 0 <= least <= largest <= ", kMaxLength)
                                               : cat(what, " lengths have mean ", l.a, " and deviation ", l.b, ", want 0 .. ", kMaxLength));
}

const Json* first_of(const Json& row, std::initializer_list<const char*> keys) {
  for (const char* k : keys)
    if (auto it = row.find(k); it != row.end() && it->is_string()) return &*it;
  return nullptr;
}

Result<TextPair> read_pair(const Json& row, const std::string& input_key, const std::string& output_key, const std::string& what) {
  if (!row.is_object()) return Error(Code::kInvalidArgument, cat(what, " is ", json_type(row), ", want an object"));
  const Json* text = input_key.empty() ? first_of(row, {"article", "document", "input", "prompt", "text"}) : first_of(row, {input_key.c_str()});
  const Json* reference = output_key.empty() ? first_of(row, {"highlights", "summary", "output", "completion", "reference"}) : first_of(row, {output_key.c_str()});
  if (!text) return Error(Code::kInvalidArgument, cat(what, " has no text: want the key ", input_key.empty() ? "article, document, input, prompt or text" : input_key));
  if (!reference && !output_key.empty()) return Error(Code::kInvalidArgument, cat(what, " has no text under the output key '", output_key, "'"));
  return TextPair{text->get<std::string>(), reference ? reference->get<std::string>() : ""};
}

Result<std::string> file_in(const std::string& path) {
  if (!is_directory(path)) return path;
  for (const char* name : {"test.jsonl", "test.json", "validation.jsonl"})
    if (file_exists(join_path(path, name))) return join_path(path, name);
  std::vector<std::string> found;
  for (const std::string& name : TRY(list_directory(path)))
    if (name.ends_with(".jsonl") || name.ends_with(".json")) found.push_back(name);
  if (found.size() == 1) return join_path(path, found[0]);
  return Error(Code::kNotFound, cat(path, " holds ", found.size(), " .json and .jsonl files, want test.jsonl, test.json or one of them"));
}

}  // namespace

Result<std::vector<Sample>> read_dataset(const std::string& path) {
  const Json j = TRY(parse_json(TRY(read_file(path, kMaxFile)), path, 8));
  const Json* list = &j;
  if (j.is_object()) {
    auto it = j.find("samples");
    if (it == j.end()) return Error(Code::kInvalidArgument, cat(path, " has no 'samples', want {\"metadata\": ..., \"samples\": [...]} or an array"));
    list = &*it;
  }
  if (!list->is_array() || list->empty()) return Error(Code::kInvalidArgument, cat(path, ": the samples are ", json_type(*list), " of ", list->size(), ", want an array with at least one"));
  std::vector<Sample> samples;
  for (size_t i = 0; i < list->size(); ++i) samples.push_back(TRY(read_sample((*list)[i], cat(path, ", sample ", i))));
  return samples;
}

std::string dataset_text(const std::vector<Sample>& samples, Json metadata) {
  Json list = Json::array();
  size_t longest_input = 0;
  int longest_output = 0;
  for (const Sample& s : samples) {
    longest_input = std::max(longest_input, s.input_ids.size());
    longest_output = std::max(longest_output, s.output_len);
    list.push_back({{"input_len", s.input_ids.size()}, {"input_ids", s.input_ids}, {"output_len", s.output_len}, {"task_id", s.task_id}});
  }
  metadata["num_requests"] = samples.size();
  metadata["max_input_len"] = longest_input;
  metadata["max_output_len"] = longest_output;
  return dump_json(Json{{"metadata", std::move(metadata)}, {"samples", std::move(list)}}) + "\n";
}

std::string dataset_lines(const std::vector<Sample>& samples) {
  std::string out;
  for (size_t i = 0; i < samples.size(); ++i)
    out += dump_json(Json{{"task_id", i}, {"input_ids", samples[i].input_ids}, {"output_tokens", samples[i].output_len}}) + "\n";
  return out;
}

// Of one made dataset: 4 GB as text.
constexpr uint64_t kMostIds = uint64_t{1} << 29;

Result<std::vector<Sample>> random_samples(int count, const Lengths& input, const Lengths& output, int vocab, uint64_t seed) {
  TRY(check(input, "input"));
  TRY(check(output, "output"));
  if (count < 1 || vocab < 1) return Error(Code::kInvalidArgument, cat(count, " requests over a vocabulary of ", vocab, ", want at least one of each"));
  const uint64_t lengths = random_key(seed, "input lengths"), outputs = random_key(seed, "output lengths"), ids = random_key(seed, "ids");
  std::vector<Sample> samples(static_cast<size_t>(count));
  uint64_t next = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    const size_t length = static_cast<size_t>(draw(input, lengths, i));
    if (length > kMostIds - std::min<uint64_t>(next, kMostIds))
      return Error(Code::kInvalidArgument, cat(count, " requests of that length hold more than ", kMostIds, " token ids: ask for fewer or shorter ones"));
    samples[i].input_ids.resize(length);
    for (int32_t& id : samples[i].input_ids) id = static_cast<int32_t>(random_bits(ids, next++) % static_cast<uint64_t>(vocab));
    samples[i].output_len = static_cast<int>(draw(output, outputs, i));
  }
  return samples;
}

Result<std::vector<TextPair>> read_texts(const std::string& path, const std::string& input_key, const std::string& output_key) {
  const std::string file = TRY(file_in(path));
  const std::string text = TRY(read_file(file, kMaxFile));
  std::vector<TextPair> out;
  if (file.ends_with(".jsonl")) {
    size_t line = 0;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      const std::string_view row(text.data() + begin, end - begin);
      begin = end + 1;
      ++line;
      if (row.find_first_not_of(" \t\r") == row.npos) continue;
      const std::string what = cat(file, " line ", line);
      out.push_back(TRY(read_pair(TRY(parse_json(row, what, 16)), input_key, output_key, what)));
    }
  } else {
    const Json j = TRY(parse_json(text, file, 16));
    const Json* rows = &j;
    for (const char* key : {"data", "test", "rows"})
      if (auto it = j.is_object() ? j.find(key) : j.end(); j.is_object() && it != j.end() && it->is_array()) {
        rows = &*it;
        break;
      }
    if (!rows->is_array()) return Error(Code::kInvalidArgument, cat(file, " is ", json_type(j), ", want an array of objects, or an object with one as data, test or rows"));
    for (size_t i = 0; i < rows->size(); ++i) out.push_back(TRY(read_pair((*rows)[i], input_key, output_key, cat(file, ", row ", i))));
  }
  if (out.empty()) return Error(Code::kInvalidArgument, cat(file, " holds no rows"));
  return out;
}

}  // namespace ingot::bench
