#include "models/architecture.h"

namespace ingot::models {

extern const Architecture kLlama, kQwen2, kQwen3, kQwen1, kYuan, kBaichuan, kGpt2, kMixtral, kQwen2Moe, kQwen3Moe, kGemma, kGemma2, kGemma3, kPhi3,
    kGlm, kGlm4, kChatGlm, kGptj, kGptNeox, kFalcon, kOpt, kBloom, kStarcoder, kStarcoder2, kDeepSeek2, kDeepSeek3;

namespace {

constexpr const Architecture* kAll[] = {
    &kLlama, &kQwen1, &kQwen2, &kQwen3, &kYuan, &kBaichuan, &kGpt2, &kMixtral, &kQwen2Moe, &kQwen3Moe, &kGemma, &kGemma2, &kGemma3,
    &kPhi3, &kGlm, &kGlm4, &kChatGlm, &kGptj, &kGptNeox, &kFalcon, &kOpt, &kBloom, &kStarcoder, &kStarcoder2, &kDeepSeek2, &kDeepSeek3,
};

std::string known_names() {
  std::string names;
  for (const Architecture* a : kAll)
    for (const char* name : a->published_names) names += cat(names.empty() ? "" : ", ", name);
  return names;
}

}  // namespace

std::span<const Architecture* const> all() { return kAll; }

const Architecture* find_published(std::string_view name) {
  for (const Architecture* a : kAll)
    for (const char* known : a->published_names)
      if (name == known) return a;
  return nullptr;
}

Result<const Architecture*> find_unified(const CheckpointConfig& config) {
  const std::string variant = TRY(get_or<std::string>(config.extra, "qwen_type", "", "config.json"));
  for (const Architecture* a : kAll)
    for (const char* known : a->unified_names)
      if (config.architecture == known && (variant.empty() || variant == a->variant)) return a;
  return Error(Code::kUnsupported, cat("config.json: architecture '", config.architecture, variant.empty() ? "" : cat("' with qwen_type '", variant),
                                       "' is not known, want one of ", known_names()));
}

Result<const Architecture*> find_of_config(const Json& published, std::string_view what) {
  const std::vector<std::string> names = TRY(get_or<std::vector<std::string>>(published, "architectures", {}, what));
  for (const std::string& name : names)
    if (const Architecture* a = find_published(name)) return a;
  if (!names.empty())
    return Error(Code::kUnsupported, cat(what, ": architectures is ", names, ", want one of ", known_names()));
  const std::string type = TRY(get<std::string>(published, "model_type", what));
  for (const Architecture* a : kAll)
    if (type == a->family) return a;
  // Rows that serve several model types.
  constexpr std::pair<std::string_view, const Architecture*> kTypes[] = {{"mistral", &kLlama}, {"smollm3", &kLlama}, {"Yi", &kLlama}, {"gemma3_text", &kGemma3}, {"RefinedWeb", &kFalcon}, {"RefinedWebModel", &kFalcon}};
  for (const auto& [name, architecture] : kTypes)
    if (type == name) return architecture;
  return Error(Code::kUnsupported, cat(what, ": there are no architectures, and model_type '", type, "' is no known family"));
}

Result<Graph> build_graph(const CheckpointConfig& config) {
  const Architecture* a = TRY(find_unified(config));
  if (config.mapping.world_size != 1)
    return Error(Code::kUnsupported, cat("the graph of a checkpoint with world_size ", config.mapping.world_size,
                                         " is not built: reshard it to tp_size 1, pp_size 1 (ingot convert)"));
  Result<Graph> g = a->build(config);
  if (!g) return g.error().in(config.architecture);
  return g;
}

}  // namespace ingot::models
