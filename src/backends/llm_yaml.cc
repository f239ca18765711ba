// model.yaml of the LLM API layout: block mappings of scalars, nested by indentation; lists and flow values are kept as text.
#include <algorithm>

#include "backends/llm_native.h"
#include "base/files.h"
#include "base/options.h"

namespace ingot::backends {
namespace {

struct Line {
  int indent = 0;
  std::string key, value;
};

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t' || s.front() == '\r')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\r')) s.remove_suffix(1);
  return s;
}

// The value without its comment and quotes.
Result<std::string> scalar(std::string_view s, const std::string& where) {
  s = trimmed(s);
  if (!s.empty() && (s[0] == '"' || s[0] == '\'')) {
    const size_t end = s.find(s[0], 1);
    if (end == std::string_view::npos) return Error(Code::kInvalidArgument, cat(where, ": found ", s, ", want a closing ", s[0]));
    return std::string(s.substr(1, end - 1));
  }
  for (size_t i = 0; i < s.size(); ++i)
    if (s[i] == '#' && (i == 0 || s[i - 1] == ' ')) {
      s = s.substr(0, i);
      break;
    }
  return std::string(trimmed(s));
}

// Keys with the keys of their parents in front: "triton_config.decoupled".
Result<std::vector<Line>> read_lines(std::string_view text, const std::string& path) {
  std::vector<Line> lines;
  std::vector<std::pair<int, std::string>> parents;  // indent, dotted key
  int number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::string where = cat(path, ":", ++number);
    const std::string_view body = trimmed(line);
    if (body.empty() || body[0] == '#' || body == "---") continue;
    if (line.find('\t') < line.find(body[0])) return Error(Code::kInvalidArgument, cat(where, ": found a tab, want spaces for indentation"));
    if (body[0] == '-' && (body.size() == 1 || body[1] == ' ')) {  // an item of the list whose key is above
      if (!lines.empty()) lines.back().value += cat(lines.back().value.empty() ? "" : ", ", TRY(scalar(body.substr(1), where)));
      continue;
    }
    const int indent = static_cast<int>(line.find(body[0]));
    const size_t colon = body.find(':');
    if (colon == std::string_view::npos || (colon + 1 < body.size() && body[colon + 1] != ' '))
      return Error(Code::kInvalidArgument, cat(where, ": found '", body.substr(0, 60), "', want key: value"));
    while (!parents.empty() && parents.back().first >= indent) parents.pop_back();
    const std::string key = cat(parents.empty() ? "" : parents.back().second + ".", TRY(scalar(body.substr(0, colon), where)));
    lines.push_back({indent, key, TRY(scalar(body.substr(colon + 1), where))});
    if (lines.back().value.empty()) parents.push_back({indent, key});
    if (lines.size() > 10000) return Error(Code::kInvalidArgument, cat(where, ": more than 10000 keys"));
  }
  return lines;
}

}  // namespace

Result<LlmYaml> read_llm_yaml(std::string_view text, const std::string& path) {
  LlmYaml y;
  for (const Line& l : TRY(read_lines(text, path))) {
    if (l.key == "model") {
      y.model = l.value;
    } else if (l.key == "triton_config.max_batch_size") {
      const int64_t n = TRY(parse_int(l.value, cat(path, ": triton_config.max_batch_size")));
      if (n != 0) return Error(Code::kUnsupported, cat(path, ": triton_config.max_batch_size is ", n, ", want 0: a request of this layout has one prompt"));
    } else if (l.key == "triton_config.decoupled") {
      y.decoupled = parse_bool(l.value);
      if (!y.decoupled) return Error(Code::kInvalidArgument, cat(path, ": triton_config.decoupled is '", l.value, "', want True or False"));
    } else if (!l.value.empty()) {
      y.ignored[l.key] = l.value;
    }
  }
  return y;
}

Status apply_llm_yaml(server::ModelConfig& c, const std::string& directory, const std::string& file, std::vector<LlmNote>& notes) {
  int64_t newest = 0;
  for (const std::string& name : TRY(list_directory(directory)))
    if (!name.empty() && name.find_first_not_of("0123456789") == std::string::npos && name.size() < 19 && name[0] != '0')
      newest = std::max(newest, static_cast<int64_t>(std::stoll(name)));
  const std::string path = file.starts_with("/") ? file : join_path(join_path(directory, cat(newest)), file);
  if (!file_exists(path)) return {};
  const LlmYaml y = TRY(read_llm_yaml(TRY(read_file(path, 1 << 20)), path));
  if (!y.model.empty()) c.parameters["model"] = y.model;
  if (y.decoupled) c.decoupled = *y.decoupled;
  for (const char* parallel : {"tensor_parallel_size", "pipeline_parallel_size"})
    if (auto it = y.ignored.find(parallel); it != y.ignored.end() && it->second != "1")
      return Error(Code::kUnsupported, cat(path, ": ", parallel, " is ", it->second, ": engines of several ranks are not served"));
  if (auto it = y.ignored.find("kv_cache_config.free_gpu_memory_fraction"); it != y.ignored.end())
    c.parameters["kv_cache_free_gpu_mem_fraction"] = it->second;
  if (auto it = y.ignored.find("kv_cache_config.max_tokens"); it != y.ignored.end()) c.parameters["max_tokens_in_paged_kv_cache"] = it->second;
  if (auto it = y.ignored.find("kv_cache_config.enable_block_reuse"); it != y.ignored.end()) c.parameters["enable_kv_cache_reuse"] = it->second;
  std::string idle;
  for (const auto& [key, value] : y.ignored)
    if (!key.starts_with("kv_cache_config.")) idle += cat(idle.empty() ? "" : ", ", key);
  if (!idle.empty()) notes.push_back({false, cat("model '", c.name, "': keys of ", path, " without an effect here: ", idle)});
  return {};
}

}  // namespace ingot::backends
