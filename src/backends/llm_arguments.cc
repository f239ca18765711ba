#include "backends/llm_arguments.h"

#include <limits>

#include "backends/llm_inputs.h"
#include "server/llm_names.h"

namespace ingot::backends {

namespace llm = server::llm;

const server::Tensor* ArgumentReader::tensor(std::string_view name) const {
  if (const server::Tensor* t = request_.find_input(name)) return t;
  for (const Alias& a : llm_aliases())
    if (name == a.name)
      if (const server::Tensor* t = request_.find_input(a.alias)) return t;
  return nullptr;
}

const server::ParameterValue* ArgumentReader::parameter(std::string_view name) const {
  if (request_.parameters.empty()) return nullptr;
  if (const server::ParameterValue* v = server::find_parameter(request_.parameters, name)) return v;
  for (const Alias& a : llm_aliases())
    if (name == a.name)
      if (const server::ParameterValue* v = server::find_parameter(request_.parameters, a.alias)) return v;
  return nullptr;
}

bool ArgumentReader::has(std::string_view name) const { return tensor(name) || parameter(name); }

Result<ArgumentReader::Part> ArgumentReader::part(std::string_view name) const {
  const server::Tensor* t = tensor(name);
  if (!t) return Part{};
  const int64_t all = t->elements();
  if (all < 0 || all % rows_ != 0)
    return Error(Code::kInvalidArgument, cat("tensor '", t->name, "' has ", all, " elements, which does not divide into ", rows_, " rows"));
  const int64_t each = all / rows_;
  return Part{t, each * row_, each};
}

Result<std::optional<double>> ArgumentReader::number(std::string_view name) const {
  const Part p = TRY(part(name));
  if (p.tensor) {
    if (p.count == 0) return std::optional<double>();
    return std::optional<double>(TRY(server::read_number(*p.tensor, p.first)));
  }
  const server::ParameterValue* v = parameter(name);
  if (!v) return std::optional<double>();
  if (auto* d = std::get_if<double>(v)) return std::optional<double>(*d);
  if (auto* i = std::get_if<int64_t>(v)) return std::optional<double>(static_cast<double>(*i));
  if (auto* u = std::get_if<uint64_t>(v)) return std::optional<double>(static_cast<double>(*u));
  if (auto* b = std::get_if<bool>(v)) return std::optional<double>(*b ? 1 : 0);
  return Error(Code::kInvalidArgument, cat("parameter '", name, "' is '", server::str(*v), "', want a number"));
}

Result<std::optional<int64_t>> ArgumentReader::integer(std::string_view name) const {
  const std::optional<double> v = TRY(number(name));
  if (!v) return std::optional<int64_t>();
  if (!(*v >= -9e15 && *v <= 9e15) || *v != static_cast<double>(static_cast<int64_t>(*v)))
    return Error(Code::kInvalidArgument, cat("'", name, "' is ", *v, ", want an integer"));
  return std::optional<int64_t>(static_cast<int64_t>(*v));
}

Result<std::optional<uint64_t>> ArgumentReader::unsigned_integer(std::string_view name) const {
  const Part p = TRY(part(name));
  if (p.tensor) {
    if (p.count == 0) return std::optional<uint64_t>();
    return std::optional<uint64_t>(TRY(server::read_unsigned(*p.tensor, p.first)));
  }
  const server::ParameterValue* v = parameter(name);
  if (v)
    if (auto* u = std::get_if<uint64_t>(v)) return std::optional<uint64_t>(*u);
  const std::optional<int64_t> i = TRY(integer(name));
  if (!i) return std::optional<uint64_t>();
  return std::optional<uint64_t>(static_cast<uint64_t>(*i));
}

Result<std::optional<bool>> ArgumentReader::boolean(std::string_view name) const {
  const Part p = TRY(part(name));
  if (p.tensor) {
    if (p.count == 0) return std::optional<bool>();
    return std::optional<bool>(TRY(server::read_bool(*p.tensor, p.first)));
  }
  const std::optional<double> v = TRY(number(name));
  if (!v) return std::optional<bool>();
  return std::optional<bool>(*v != 0);
}

Result<std::optional<std::string>> ArgumentReader::text(std::string_view name) const {
  const Part p = TRY(part(name));
  if (p.tensor) {
    const std::vector<std::string_view> all = TRY(server::read_strings(*p.tensor));
    if (p.count == 0) return std::optional<std::string>();
    return std::optional<std::string>(std::string(all[static_cast<size_t>(p.first)]));
  }
  const server::ParameterValue* v = parameter(name);
  if (!v) return std::optional<std::string>();
  if (auto* s = std::get_if<std::string>(v)) return std::optional<std::string>(*s);
  return Error(Code::kInvalidArgument, cat("parameter '", name, "' is ", server::str(*v), ", want a string"));
}

Result<std::vector<std::string>> ArgumentReader::texts(std::string_view name) const {
  std::vector<std::string> out;
  const Part p = TRY(part(name));
  if (p.tensor) {
    const std::vector<std::string_view> all = TRY(server::read_strings(*p.tensor));
    for (int64_t i = p.first; i < p.first + p.count; ++i)
      if (!all[static_cast<size_t>(i)].empty()) out.emplace_back(all[static_cast<size_t>(i)]);
    return out;
  }
  const std::optional<std::string> v = TRY(text(name));
  if (!v || v->empty()) return out;
  const Json j = TRY(parse_json(*v, cat("parameter '", name, "'")));
  if (!j.is_array()) return Error(Code::kInvalidArgument, cat("parameter '", name, "' is a JSON ", json_type(j), ", want an array of strings"));
  for (const Json& e : j) {
    if (!e.is_string()) return Error(Code::kInvalidArgument, cat("parameter '", name, "' holds a JSON ", json_type(e), ", want strings"));
    if (!e.get_ref<const std::string&>().empty()) out.push_back(e.get<std::string>());
  }
  return out;
}

Result<std::vector<double>> ArgumentReader::numbers(std::string_view name) const {
  std::vector<double> out;
  const Part p = TRY(part(name));
  for (int64_t i = p.first; p.tensor && i < p.first + p.count; ++i) out.push_back(TRY(server::read_number(*p.tensor, i)));
  return out;
}

Result<std::vector<int32_t>> ArgumentReader::ids(std::string_view name) const {
  std::vector<int32_t> out;
  const Part p = TRY(part(name));
  for (int64_t i = p.first; p.tensor && i < p.first + p.count; ++i) {
    const int64_t v = TRY(server::read_integer(*p.tensor, i));
    if (v < std::numeric_limits<int32_t>::min() || v > std::numeric_limits<int32_t>::max())
      return Error(Code::kInvalidArgument, cat("tensor '", name, "' holds ", v, ", which is no token id"));
    out.push_back(static_cast<int32_t>(v));
  }
  return out;
}

namespace {

Status range(const char* name, double v, double low, double high) {
  if (v >= low && v <= high) return {};
  return Error(Code::kInvalidArgument, cat("'", name, "' is ", v, ", allowed is ", low, " .. ", high));
}

// stop_words_list, bad_words_list: row 0 holds the ids of all words one after the other, row 1 the ends of the words, padded with -1.
Result<std::vector<std::vector<int32_t>>> word_list(const ArgumentReader& r, const char* name) {
  std::vector<std::vector<int32_t>> words;
  const std::vector<int32_t> flat = TRY(r.ids(name));
  if (flat.empty()) return words;
  if (flat.size() % 2 != 0) return Error(Code::kInvalidArgument, cat("tensor '", name, "' has ", flat.size(), " elements a row, want [2, n]"));
  const size_t n = flat.size() / 2;
  int32_t begin = 0;
  for (size_t i = 0; i < n; ++i) {
    const int32_t end = flat[n + i];
    if (end < 0) break;
    if (end < begin || end > static_cast<int32_t>(n))
      return Error(Code::kInvalidArgument, cat("tensor '", name, "': offset ", end, " at ", i, " is outside ", begin, " .. ", n));
    if (end > begin) words.emplace_back(flat.begin() + begin, flat.begin() + end);
    begin = end;
  }
  return words;
}

// prompt_embedding_table: FP16 or FP32 [rows, width] (behind the batch dimension), and what tells it apart in the prefix tree.
Status read_table(const ArgumentReader& r, LlmArguments& a) {
  const ArgumentReader::Part p = TRY(r.part("prompt_embedding_table"));
  if (!p.tensor || p.count == 0) return {};
  if (p.tensor->shape.size() < 2) return Error(Code::kInvalidArgument, "tensor 'prompt_embedding_table' has one dimension, want [rows, hidden size]");
  a.table_width = static_cast<int>(p.tensor->shape.back());
  a.table.reserve(static_cast<size_t>(p.count));
  for (int64_t i = p.first; i < p.first + p.count; ++i) a.table.push_back(static_cast<float>(TRY(server::read_number(*p.tensor, i))));
  const ArgumentReader::Part ids = TRY(r.part("prompt_table_extra_id"));
  for (int64_t i = ids.first; ids.tensor && i < ids.first + ids.count; ++i) a.table_ids.push_back(TRY(server::read_unsigned(*ids.tensor, i)));
  return {};
}

Status read_words(const ArgumentReader& r, LlmArguments& a) {
  a.stop = TRY(r.texts(llm::kStopWords));
  a.bad = TRY(r.texts(llm::kBadWords));
  a.bias_words = TRY(r.texts(llm::kBiasWords));
  a.bias_weights = TRY(r.numbers(llm::kBiasWeights));
  a.stop_ids = TRY(word_list(r, "stop_words_list"));
  a.bad_ids = TRY(word_list(r, "bad_words_list"));
  if (a.bias_words.size() != a.bias_weights.size())
    return Error(Code::kInvalidArgument, cat("'embedding_bias_words' has ", a.bias_words.size(), " words, 'embedding_bias_weights' ", a.bias_weights.size(),
                                             " numbers; want as many"));
  const std::vector<double> bias = TRY(r.numbers("embedding_bias"));  // one for each id of the vocabulary
  for (size_t id = 0; id < bias.size(); ++id)
    if (bias[id] != 0) a.logit_bias.push_back({static_cast<int32_t>(id), bias[id]});
  if (const std::optional<std::string> text = TRY(r.text(llm::kLogitBias))) {
    const Json j = TRY(parse_json(*text, "'logit_bias'"));
    if (!j.is_object()) return Error(Code::kInvalidArgument, cat("'logit_bias' is a JSON ", json_type(j), ", want an object"));
    for (const auto& [key, value] : j.items()) {
      int64_t id = 0;
      auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
      if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 || id > (1 << 30) || !value.is_number())
        return Error(Code::kInvalidArgument, cat("'logit_bias': \"", key, "\": ", dump_json(value), ", want \"token id\": number"));
      a.logit_bias.push_back({static_cast<int32_t>(id), value.get<double>()});
    }
  }
  return {};
}

Status read_sampling(const ArgumentReader& r, LlmArguments& a) {
  a.temperature = TRY(r.number(llm::kTemperature));
  a.top_p = TRY(r.number(llm::kTopP));
  a.top_k = TRY(r.integer(llm::kTopK));
  a.min_p = TRY(r.number(llm::kMinP));
  if (a.temperature) TRY(range(llm::kTemperature, *a.temperature, 0, 100));
  if (a.top_p) TRY(range(llm::kTopP, *a.top_p, 0, 1));
  if (a.top_k) TRY(range(llm::kTopK, static_cast<double>(*a.top_k), -1, 1 << 24));
  if (a.min_p) TRY(range(llm::kMinP, *a.min_p, 0, 1));
  a.seed = TRY(r.unsigned_integer(llm::kSeed));
  a.repetition_penalty = TRY(r.number(llm::kRepetitionPenalty)).value_or(1);
  if (!(a.repetition_penalty > 0)) return Error(Code::kInvalidArgument, cat("'repetition_penalty' is ", a.repetition_penalty, ", want more than 0"));
  a.presence_penalty = TRY(r.number(llm::kPresencePenalty)).value_or(0);
  a.frequency_penalty = TRY(r.number(llm::kFrequencyPenalty)).value_or(0);
  const int64_t beams = TRY(r.integer(llm::kBeamWidth)).value_or(1);
  if (beams > 1) return Error(Code::kUnsupported, cat("'beam_width' is ", beams, ": beam search is not built; 'num_return_sequences' gives several samples"));
  const int64_t n = TRY(r.integer(llm::kN)).value_or(1);
  TRY(range(llm::kN, static_cast<double>(n), 1, 128));
  a.n = static_cast<int>(n);
  const int64_t best = TRY(r.integer("best_of")).value_or(n);
  if (best != n && best != 0)
    return Error(Code::kUnsupported, cat("'best_of' is ", best, " and ", n, " sequences are returned: choosing among more than are returned is not built"));
  a.guide_type = TRY(r.text(llm::kGuideType)).value_or("");
  a.guide = TRY(r.text(llm::kGuide)).value_or("");
  return {};
}

}  // namespace

Result<LlmArguments> read_arguments(const ArgumentReader& r, LlmSurface surface) {
  LlmArguments a;
  a.text = TRY(r.text(llm::kTextInput));
  a.messages = TRY(r.text(llm::kMessages));
  a.tools = TRY(r.text(llm::kTools));
  a.template_arguments = TRY(r.text(llm::kTemplateArguments));
  a.tool_choice = TRY(r.text(llm::kToolChoice));
  a.has_ids = r.has(llm::kInputIds);
  if (a.has_ids) {
    a.input_ids = TRY(r.ids(llm::kInputIds));
    const std::optional<int64_t> length = TRY(r.integer("input_lengths"));
    if (length) {
      if (*length < 0 || *length > static_cast<int64_t>(a.input_ids.size()))
        return Error(Code::kInvalidArgument, cat("'input_lengths' is ", *length, ", 'input_ids' has ", a.input_ids.size(), " ids"));
      a.input_ids.resize(static_cast<size_t>(*length));
    }
  }
  a.details = TRY(r.boolean(llm::kDetails)).value_or(false);
  a.echo = TRY(r.boolean(llm::kEcho)).value_or(false);
  const std::optional<int64_t> max_tokens = TRY(r.integer(llm::kMaxTokens));
  if (max_tokens) {
    // The text routes say -1 for no limit where a config requires the tensor.
    TRY(range(llm::kMaxTokens, static_cast<double>(*max_tokens), a.details ? -1 : 1, 1 << 24));
    a.max_tokens = static_cast<int>(std::max<int64_t>(0, *max_tokens));
    a.no_new_tokens = *max_tokens == 0;
  } else if (!a.details) {
    a.max_tokens = surface == LlmSurface::kLlmapi ? kDefaultLlmapiMaxTokens : kDefaultMaxTokens;
  }
  const std::optional<int64_t> min_tokens = TRY(r.integer(llm::kMinTokens));
  if (min_tokens) {
    TRY(range(llm::kMinTokens, static_cast<double>(*min_tokens), 0, 1 << 24));
    a.min_tokens = static_cast<int>(*min_tokens);
  }
  a.stream = TRY(r.boolean(llm::kStream)).value_or(false);
  TRY(read_sampling(r, a));
  TRY(read_words(r, a));
  TRY(read_table(r, a));
  a.end_id = TRY(r.integer(llm::kEndId));
  if (a.end_id && (*a.end_id < -1 || *a.end_id > std::numeric_limits<int32_t>::max()))
    return Error(Code::kInvalidArgument, cat("'end_id' is ", *a.end_id, ", want a token id, or -1 to end at none"));
  a.ignore_eos = TRY(r.boolean(llm::kIgnoreEos)).value_or(false);
  a.exclude_input = TRY(r.boolean(llm::kExcludeInput)).value_or(surface == LlmSurface::kLlmapi);
  a.log_probs = TRY(r.boolean(llm::kReturnLogProbs)).value_or(false);
  a.context_logits = TRY(r.boolean(llm::kReturnContextLogits)).value_or(false);
  a.generation_logits = TRY(r.boolean(llm::kReturnGenerationLogits)).value_or(false);
  a.perf_metrics = TRY(r.boolean(llm::kReturnPerfMetrics)).value_or(false);
  a.finish_reason = TRY(r.boolean("return_finish_reason")).value_or(false);
  a.stop_reason = TRY(r.boolean("return_stop_reason")).value_or(false);
  a.cumulative = TRY(r.boolean("return_cumulative_logprob")).value_or(false);
  if (const std::optional<int64_t> top = TRY(r.integer(llm::kTopLogProbs))) {
    TRY(range(llm::kTopLogProbs, static_cast<double>(*top), 0, 20));
    a.top_log_probs = static_cast<int>(*top);
  }
  a.cache_salt = TRY(r.text(llm::kCacheSalt)).value_or("");
  if (surface != LlmSurface::kText) a.stop_earlier = TRY(r.boolean("stop")).value_or(false);
  a.embed = TRY(r.boolean(llm::kEmbed)).value_or(false);
  return a;
}

}  // namespace ingot::backends
