#include "models/gguf.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "tensor/convert.h"

namespace ingot::models {
namespace {

using formats::GgufFile;
using formats::TensorInfo;
using formats::TensorSource;

struct GgufFamily {
  const char* architecture;    // general.architecture
  const char* published;       // Hugging Face's class
  const char* model_type;
  bool interleaved;            // rows of q and k are stored for pairs (2i, 2i + 1)
};
constexpr GgufFamily kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama", true},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", false},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", false},
};

Result<const GgufFamily*> family_of(const GgufFile& file) {
  const std::string name = TRY(file.string("general.architecture"));
  std::string known;
  for (const GgufFamily& f : kFamilies) {
    if (name == f.architecture) return &f;
    known += cat(known.empty() ? "" : ", ", f.architecture);
  }
  return Error(Code::kUnsupported, cat(file.path(), ": GGUF files of architecture '", name, "' are not read (known: ", known,
                                       "); convert from the Hugging Face form instead"));
}

struct Name {
  const char* gguf;
  const char* published;
};
constexpr Name kTop[] = {{"token_embd", "model.embed_tokens"}, {"output", "lm_head"}, {"output_norm", "model.norm"}};
constexpr Name kLayer[] = {
    {"attn_norm", "input_layernorm"},   {"attn_q", "self_attn.q_proj"},           {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},     {"attn_output", "self_attn.o_proj"},      {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"}, {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},          {"ffn_down", "mlp.down_proj"},
};

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; "" for tensors that are no weights of the model.
std::string published_name(std::string_view gguf) {
  const size_t dot = gguf.rfind('.');
  if (dot == gguf.npos) return "";
  const std::string_view stem = gguf.substr(0, dot), suffix = gguf.substr(dot);
  for (const Name& n : kTop)
    if (stem == n.gguf) return cat(n.published, suffix);
  if (!stem.starts_with("blk.")) return "";
  const size_t end = stem.find('.', 4);
  if (end == stem.npos) return "";
  for (const Name& n : kLayer)
    if (stem.substr(end + 1) == n.gguf) return cat("model.layers.", stem.substr(4, end - 4), ".", n.published, suffix);
  return "";
}

// Llama 3.1's frequency divisors, stored as a tensor of their own, back to the parameters they were made from.
Result<Json> llama3_scaling(const GgufFile& file, double base, int64_t rotary) {
  const View stored = TRY(file.find("rope_freqs.weight"));
  std::vector<float> factors(static_cast<size_t>(stored.shape.elements()));
  TRY(to_float(stored, factors));
  float largest = 1;
  for (float f : factors) largest = std::max(largest, f);
  for (const double original : {8192.0}) {
    const double low = 1, high = 4;
    bool equal = static_cast<int64_t>(factors.size()) * 2 == rotary;
    for (size_t i = 0; i < factors.size() && equal; ++i) {
      const double wave = 2 * M_PI * std::pow(base, 2.0 * static_cast<double>(i) / static_cast<double>(rotary));
      double want = 1;
      if (wave > original / low) want = largest;
      else if (wave >= original / high) {
        const double s = (original / wave - low) / (high - low);
        want = 1 / ((1 - s) / largest + s);
      }
      equal = std::abs(want - factors[i]) <= 1e-3 * want;
    }
    if (equal)
      return Json{{"rope_type", "llama3"}, {"factor", largest}, {"low_freq_factor", low}, {"high_freq_factor", high},
                  {"original_max_position_embeddings", static_cast<int64_t>(original)}};
  }
  return Error(Code::kUnsupported, cat(file.path(), ": tensor 'rope_freqs.weight' holds frequency factors that are not those of Llama 3.1 (factor ", largest, ")"));
}

class GgufNames : public TensorSource {
 public:
  struct Row {
    std::string stored;
    int64_t heads = 0;  // > 0: rows in pairs, this many heads
  };
  GgufNames(std::unique_ptr<TensorSource> gguf) : gguf_(std::move(gguf)) {}

  Status fill(bool interleaved, int64_t heads, int64_t kv_heads) {
    for (const TensorInfo& t : gguf_->list()) {
      std::string name = published_name(t.name);
      if (name.empty()) {
        if (t.name == "rope_freqs.weight") continue;
        return Error(Code::kUnsupported, cat("tensor '", t.name, "' in ", path(), " is none that the architecture has"));
      }
      Row row{t.name, 0};
      if (interleaved && name.find("self_attn.q_proj") != name.npos) row.heads = heads;
      if (interleaved && name.find("self_attn.k_proj") != name.npos) row.heads = kv_heads;
      if (row.heads > 0 && (t.shape.rank() < 1 || t.shape[0] % (2 * row.heads) != 0))
        return Error(Code::kInvalidArgument, cat("tensor '", t.name, "' in ", path(), " has shape ", str(t.shape), ", want rows that divide into ", row.heads,
                                                 " heads of even width"));
      infos_.push_back({name, t.dtype, t.shape});
      rows_.emplace(std::move(name), std::move(row));
    }
    for (size_t i = 0; i < infos_.size(); ++i) index_.emplace(infos_[i].name, i);
    return {};
  }

  formats::SourceKind kind() const override { return gguf_->kind(); }
  const std::string& path() const override { return gguf_->path(); }
  std::span<const TensorInfo> list() const override { return infos_; }
  const GgufFile* gguf() const override { return gguf_->gguf(); }
  const TensorInfo* info(std::string_view name) const override {
    auto it = index_.find(name);
    return it == index_.end() ? nullptr : &infos_[it->second];
  }

  Result<View> find(std::string_view name) const override {
    auto it = rows_.find(name);
    if (it == rows_.end()) return Error(Code::kNotFound, cat(path(), " has no tensor '", name, "'"));
    const View stored = TRY(gguf_->find(it->second.stored));
    if (it->second.heads == 0) return stored;
    std::lock_guard lock(mutex_);
    auto made = made_.find(name);
    if (made == made_.end()) {
      // Stored row (head, j, half) is row (head, half, j): whole rows move, so quantised blocks stay as they are.
      const int64_t rows = stored.shape[0], heads = it->second.heads, half = rows / heads / 2;
      const size_t bytes = stored.bytes.size() / static_cast<size_t>(rows);
      std::vector<std::byte> out(stored.bytes.size());
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t p = 0; p < 2; ++p)
          for (int64_t j = 0; j < half; ++j)
            std::memcpy(out.data() + static_cast<size_t>((h * 2 + p) * half + j) * bytes,
                        stored.bytes.data() + static_cast<size_t>((h * half + j) * 2 + p) * bytes, bytes);
      made = made_.emplace(std::string(name), std::move(out)).first;
    }
    return View{stored.dtype, stored.shape, made->second};
  }

  void forget(std::string_view name) const override {
    auto it = rows_.find(name);
    if (it == rows_.end()) return;
    gguf_->forget(it->second.stored);
    std::lock_guard lock(mutex_);
    if (auto made = made_.find(name); made != made_.end()) made_.erase(made);
  }

 private:
  std::unique_ptr<TensorSource> gguf_;
  std::vector<TensorInfo> infos_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, Row, std::less<>> rows_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::vector<std::byte>, std::less<>> made_;
};

}  // namespace

Result<Json> gguf_config(const GgufFile& file) {
  const GgufFamily* family = TRY(family_of(file));
  const std::string prefix = cat(family->architecture, ".");
  auto integer = [&](const char* key) { return file.integer(prefix + key); };
  Json j;
  j["architectures"] = Json::array({family->published});
  j["model_type"] = family->model_type;
  const int64_t heads = TRY(integer("attention.head_count")), hidden = TRY(integer("embedding_length"));
  if (heads < 1 || hidden < 1) return Error(Code::kInvalidArgument, cat(file.path(), ": ", heads, " heads and hidden size ", hidden, ", want at least 1"));
  if (TRY(file.integer_or(prefix + "expert_count", 0)) > 0)
    return Error(Code::kUnsupported, cat(file.path(), ": mixtures of experts are not read from GGUF; convert from the Hugging Face form instead"));
  j["hidden_size"] = hidden;
  j["num_attention_heads"] = heads;
  j["num_key_value_heads"] = TRY(file.integer_or(prefix + "attention.head_count_kv", heads));
  j["num_hidden_layers"] = TRY(integer("block_count"));
  j["intermediate_size"] = TRY(integer("feed_forward_length"));
  j["max_position_embeddings"] = TRY(integer("context_length"));
  j["rms_norm_eps"] = TRY(file.number_or(prefix + "attention.layer_norm_rms_epsilon", 1e-5));
  const int64_t head_dim = TRY(file.integer_or(prefix + "attention.key_length", hidden / heads));
  const int64_t rotary = TRY(file.integer_or(prefix + "rope.dimension_count", head_dim));
  if (rotary != head_dim)
    return Error(Code::kUnsupported, cat(file.path(), ": rope.dimension_count is ", rotary, ", want the head dimension ", head_dim));
  j["head_dim"] = head_dim;
  j["hidden_act"] = "silu";
  const double base = TRY(file.number_or(prefix + "rope.freq_base", 10000));
  j["rope_theta"] = base;
  const formats::TensorInfo* table = file.info("token_embd.weight");
  if (!table || table->shape.rank() != 2) return Error(Code::kInvalidArgument, cat(file.path(), " has no matrix 'token_embd.weight'"));
  j["vocab_size"] = table->shape[0];
  j["tie_word_embeddings"] = file.info("output.weight") == nullptr;
  j["torch_dtype"] = "float16";
  if (family->published == std::string_view("LlamaForCausalLM")) j["attention_bias"] = file.info("blk.0.attn_q.bias") != nullptr;
  const std::string scaling = TRY(file.string_or(prefix + "rope.scaling.type", "none"));
  if (file.info("rope_freqs.weight")) {
    j["rope_scaling"] = TRY(llama3_scaling(file, base, rotary));
  } else if (scaling == "linear" || scaling == "yarn") {
    Json s{{"rope_type", scaling}, {"factor", TRY(file.number(prefix + "rope.scaling.factor"))}};
    if (scaling == "yarn") s["original_max_position_embeddings"] = TRY(file.integer(prefix + "rope.scaling.original_context_length"));
    j["rope_scaling"] = std::move(s);
  } else if (scaling != "none") {
    return Error(Code::kUnsupported, cat(file.path(), ": rope.scaling.type is '", scaling, "', want none, linear or yarn"));
  }
  return j;
}

Result<std::unique_ptr<TensorSource>> gguf_as_published(std::unique_ptr<TensorSource> gguf, const Json& config) {
  const GgufFile* file = gguf->gguf();
  CHECK(file, "not a GGUF source");
  const GgufFamily* family = TRY(family_of(*file));
  const int64_t heads = TRY(get<int64_t>(config, "num_attention_heads", file->path())), kv_heads = TRY(get<int64_t>(config, "num_key_value_heads", file->path()));
  auto named = std::make_unique<GgufNames>(std::move(gguf));
  TRY(named->fill(family->interleaved, heads, kv_heads));
  return std::unique_ptr<TensorSource>(std::move(named));
}

}  // namespace ingot::models
