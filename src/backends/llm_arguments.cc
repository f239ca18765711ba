#include "backends/llm_arguments.h"

#include <limits>

#include "server/llm_names.h"

namespace ingot::backends {

namespace llm = server::llm;

bool ArgumentReader::has(std::string_view name) const {
  return request_.find_input(name) || server::find_parameter(request_.parameters, name);
}

Result<ArgumentReader::Part> ArgumentReader::part(std::string_view name) const {
  const server::Tensor* t = request_.find_input(name);
  if (!t) return Part{};
  const int64_t all = t->elements();
  if (all < 0 || all % rows_ != 0)
    return Error(Code::kInvalidArgument, cat("tensor '", name, "' has ", all, " elements, which does not divide into ", rows_, " rows"));
  const int64_t each = all / rows_;
  return Part{t, each * row_, each};
}

Result<std::optional<double>> ArgumentReader::number(std::string_view name) const {
  const Part p = TRY(part(name));
  if (p.tensor) {
    if (p.count == 0) return std::optional<double>();
    return std::optional<double>(TRY(server::read_number(*p.tensor, p.first)));
  }
  const server::ParameterValue* v = server::find_parameter(request_.parameters, name);
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
  const server::ParameterValue* v = server::find_parameter(request_.parameters, name);
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
  const server::ParameterValue* v = server::find_parameter(request_.parameters, name);
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

// The first of several names that is given: the text surface's and the token surface's differ.
template <class T>
Result<std::optional<T>> first_of(std::initializer_list<const char*> names, auto read) {
  for (const char* name : names) {
    std::optional<T> v = TRY(read(name));
    if (v) return v;
  }
  return std::optional<T>();
}

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

}  // namespace

Result<LlmArguments> read_arguments(const ArgumentReader& r) {
  LlmArguments a;
  auto integer = [&](const char* name) { return r.integer(name); };
  auto number = [&](const char* name) { return r.number(name); };
  auto boolean = [&](const char* name) { return r.boolean(name); };
  auto unsigned_integer = [&](const char* name) { return r.unsigned_integer(name); };

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
  const std::optional<int64_t> max_tokens = TRY(first_of<int64_t>({llm::kMaxTokens, "request_output_len"}, integer));
  if (max_tokens) {
    TRY(range(llm::kMaxTokens, static_cast<double>(*max_tokens), 1, 1 << 24));
    a.max_tokens = static_cast<int>(*max_tokens);
  }
  const std::optional<int64_t> min_tokens = TRY(first_of<int64_t>({llm::kMinTokens, "min_length"}, integer));
  if (min_tokens) {
    TRY(range(llm::kMinTokens, static_cast<double>(*min_tokens), 0, 1 << 24));
    a.min_tokens = static_cast<int>(*min_tokens);
  }
  a.stream = TRY(first_of<bool>({llm::kStream, "streaming"}, boolean)).value_or(false);
  a.temperature = TRY(r.number(llm::kTemperature));
  a.top_p = TRY(first_of<double>({llm::kTopP, "runtime_top_p"}, number));
  a.top_k = TRY(first_of<int64_t>({llm::kTopK, "runtime_top_k"}, integer));
  a.min_p = TRY(r.number(llm::kMinP));
  if (a.temperature) TRY(range(llm::kTemperature, *a.temperature, 0, 100));
  if (a.top_p) TRY(range(llm::kTopP, *a.top_p, 0, 1));
  if (a.top_k) TRY(range(llm::kTopK, static_cast<double>(*a.top_k), -1, 1 << 24));
  if (a.min_p) TRY(range(llm::kMinP, *a.min_p, 0, 1));
  a.seed = TRY(first_of<uint64_t>({llm::kSeed, llm::kRandomSeed}, unsigned_integer));
  a.repetition_penalty = TRY(r.number(llm::kRepetitionPenalty)).value_or(1);
  if (!(a.repetition_penalty > 0)) return Error(Code::kInvalidArgument, cat("'repetition_penalty' is ", a.repetition_penalty, ", want more than 0"));
  a.presence_penalty = TRY(r.number(llm::kPresencePenalty)).value_or(0);
  a.frequency_penalty = TRY(r.number(llm::kFrequencyPenalty)).value_or(0);
  const int64_t beams = TRY(r.integer(llm::kBeamWidth)).value_or(1);
  if (beams > 1) return Error(Code::kUnsupported, cat("'beam_width' is ", beams, ": beam search is not built; 'num_return_sequences' gives several samples"));
  const int64_t n = TRY(r.integer(llm::kN)).value_or(1);
  TRY(range(llm::kN, static_cast<double>(n), 1, 128));
  a.n = static_cast<int>(n);
  a.stop = TRY(r.texts(llm::kStopWords));
  a.bad = TRY(r.texts(llm::kBadWords));
  a.bias_words = TRY(r.texts(llm::kBiasWords));
  a.bias_weights = TRY(r.numbers(llm::kBiasWeights));
  a.stop_ids = TRY(word_list(r, "stop_words_list"));
  a.bad_ids = TRY(word_list(r, "bad_words_list"));
  if (a.bias_words.size() != a.bias_weights.size())
    return Error(Code::kInvalidArgument, cat("'embedding_bias_words' has ", a.bias_words.size(), " words, 'embedding_bias_weights' ", a.bias_weights.size(),
                                             " numbers; want as many"));
  if (const std::optional<std::string> bias = TRY(r.text(llm::kLogitBias))) {
    const Json j = TRY(parse_json(*bias, "'logit_bias'"));
    if (!j.is_object()) return Error(Code::kInvalidArgument, cat("'logit_bias' is a JSON ", json_type(j), ", want an object"));
    for (const auto& [key, value] : j.items()) {
      int64_t id = 0;
      auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
      if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 || id > (1 << 30) || !value.is_number())
        return Error(Code::kInvalidArgument, cat("'logit_bias': \"", key, "\": ", dump_json(value), ", want \"token id\": number"));
      a.logit_bias.push_back({static_cast<int32_t>(id), value.get<double>()});
    }
  }
  a.end_id = TRY(r.integer(llm::kEndId));
  a.ignore_eos = TRY(r.boolean(llm::kIgnoreEos)).value_or(false);
  a.exclude_input = TRY(r.boolean(llm::kExcludeInput)).value_or(false);
  a.echo = TRY(r.boolean(llm::kEcho)).value_or(false);
  a.log_probs = TRY(r.boolean(llm::kReturnLogProbs)).value_or(false);
  a.context_logits = TRY(r.boolean(llm::kReturnContextLogits)).value_or(false);
  a.generation_logits = TRY(r.boolean(llm::kReturnGenerationLogits)).value_or(false);
  a.details = TRY(r.boolean(llm::kDetails)).value_or(false);
  if (const std::optional<int64_t> top = TRY(r.integer(llm::kTopLogProbs))) {
    TRY(range(llm::kTopLogProbs, static_cast<double>(*top), 0, 20));
    a.top_log_probs = static_cast<int>(*top);
  }
  a.guide_type = TRY(r.text(llm::kGuideType)).value_or("");
  a.guide = TRY(r.text(llm::kGuide)).value_or("");
  a.cache_salt = TRY(r.text(llm::kCacheSalt)).value_or("");
  a.stop_earlier = TRY(r.boolean("stop")).value_or(false);
  if (TRY(r.boolean(llm::kEmbed)).value_or(false))
    return Error(Code::kUnsupported, "embeddings are not built: the engine's plan ends in logits; use a model served for embeddings elsewhere");
  return a;
}

}  // namespace ingot::backends
