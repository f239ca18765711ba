#include "convert/shard.h"

#include <charconv>
#include <cstring>

namespace ingot::convert {
namespace {

using checkpoint::CheckpointConfig;
using checkpoint::Mapping;
using formats::TensorInfo;

constexpr std::string_view kLayers = "transformer.layers.";

// "transformer.layers.7.mlp.fc.weight" -> 7, "mlp.fc.weight"
std::optional<std::pair<int, std::string_view>> layer_of(std::string_view name) {
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  int layer = 0;
  const auto r = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (r.ec != std::errc() || r.ptr == name.data() + name.size() || *r.ptr != '.') return std::nullopt;
  return std::pair{layer, name.substr(static_cast<size_t>(r.ptr - name.data()) + 1)};
}

enum class Split { kNone, kRows, kColumns };

// How a tensor splits: runs of rows that split each on their own (q, k, v), as widths that add up to the rows of one expert.
struct Rule {
  Split split = Split::kNone;
  std::vector<int64_t> parts;     // kRows
  std::vector<int64_t> repeats;   // kRows: ranks that share one piece of the part
  bool bias_of_columns = false;   // kept by tensor rank 0 alone
};

// Scales of a stack's rows: [experts, rows], as [experts, rows, 1].
bool is_stack_of_scales(const TensorInfo& info) { return info.shape.rank() == 2 && info.name.ends_with(".per_channel_scale"); }

// Factors of a product's inputs: [inputs] or [1, inputs].
bool is_input_scale(std::string_view name) { return name.ends_with(".prequant_scaling_factor") || name.ends_with(".smoother"); }

int64_t vocabulary(const CheckpointConfig& c, int tp) { return (int64_t{c.vocab_size} + tp - 1) / tp * tp; }

bool is_sharded_table(const CheckpointConfig& c, std::string_view name, int dim) {
  return c.use_parallel_embedding && c.embedding_sharding_dim == dim && name.starts_with("transformer.vocab_embedding.");
}

Result<Rule> rule_of(const CheckpointConfig& c, const TensorInfo& info, std::string_view tail, int64_t rows, int tp) {
  Rule r;
  const size_t dot = tail.rfind('.');
  const std::string_view module = tail.substr(0, dot), kind = dot == tail.npos ? std::string_view() : tail.substr(dot + 1);
  const int64_t q = int64_t{c.num_attention_heads} * c.head_size, kv = int64_t{c.num_key_value_heads} * c.head_size;
  const int64_t shared = c.num_key_value_heads < tp ? tp / c.num_key_value_heads : 1;
  const auto in_rows = [&](std::vector<int64_t> parts, std::vector<int64_t> repeats) {
    r.split = Split::kRows;
    r.parts = std::move(parts);
    r.repeats = std::move(repeats);
  };
  if (info.shape.elements() == 1) return r;  // one scale of a whole tensor
  const bool in_columns = module == "attention.dense" || module == "mlp.proj" || module == "mlp.shared_expert.proj";
  if (is_input_scale(info.name) && !in_columns) return r;  // every rank has all inputs
  if (info.name.starts_with("lm_head.") || is_sharded_table(c, info.name, 0)) {
    in_rows({vocabulary(c, tp)}, {1});
  } else if (is_sharded_table(c, info.name, 1)) {
    r.split = Split::kColumns;
  } else if (module == "attention.qkv") {
    in_rows({q, kv, kv}, {1, shared, shared});
  } else if (module == "attention.qk" && rows == 2 * q) {
    in_rows({q, q}, {1, 1});
  } else if (module == "attention.qk" || module == "attention.v" || module == "attention.q_affine" || module == "attention.k_affine") {
    in_rows({q}, {1});
  } else if (module == "mlp.fc" || module == "mlp.gate" || module == "mlp.shared_expert.fc" || module == "mlp.shared_expert.gate") {
    const bool stack = info.shape.rank() == 3 || is_stack_of_scales(info);
    const bool halves = (stack && c.extra.contains("moe") && module != "mlp.gate") || module == "mlp.shared_expert.fc";
    const int64_t experts = stack ? info.shape[0] : 1, own = rows / experts;
    if (halves) in_rows({own / 2, own / 2}, {1, 1});
    else in_rows({own}, {1});
  } else if (in_columns) {
    if (kind == "bias") r.bias_of_columns = true;
    else if (kind != "per_channel_scale") r.split = Split::kColumns;
  }
  return r;
}

Error indivisible(std::string_view what, int64_t n, int tp) {
  return Error(Code::kInvalidArgument, cat(what, " (", n, ") is not divisible by tp_size (", tp, ")"));
}

int first_layer(const CheckpointConfig& c, const Mapping& m, int pp_rank) { return c.num_hidden_layers / m.pp_size * pp_rank; }

int64_t row_bytes(DType dtype, int64_t width) { return storage_bytes(dtype, width); }

}  // namespace

Status check_sharding(const CheckpointConfig& c, int tp, int pp) {
  if (c.num_attention_heads % tp != 0) return indivisible("num_attention_heads", c.num_attention_heads, tp);
  if (c.num_key_value_heads >= tp ? c.num_key_value_heads % tp != 0 : tp % c.num_key_value_heads != 0)
    return Error(Code::kInvalidArgument, cat("num_key_value_heads (", c.num_key_value_heads, ") and tp_size (", tp, "): one must divide the other"));
  if (c.intermediate_size % tp != 0) return indivisible("intermediate_size", c.intermediate_size, tp);
  if (c.num_hidden_layers % pp != 0)
    return Error(Code::kInvalidArgument, cat("num_hidden_layers (", c.num_hidden_layers, ") is not divisible by pp_size (", pp, ")"));
  if (tp > 1 && c.architecture.starts_with("Deepseek"))
    return Error(Code::kUnsupported, cat("tp_size (", tp, ") of ", c.architecture, ": its latent attention is not sharded, want 1"));
  return {};
}

Result<std::optional<Shard>> shard_of(const CheckpointConfig& c, const TensorInfo& info, const Mapping& m, int rank) {
  const int tp = m.tp_size, tp_rank = m.tp_rank(rank), pp_rank = m.pp_rank(rank);
  Shard s;
  s.name = info.name;
  s.shape = info.shape;
  std::string_view tail;
  if (const auto layer = layer_of(info.name)) {
    const int first = first_layer(c, m, pp_rank), count = c.num_hidden_layers / m.pp_size;
    if (layer->first < first || layer->first >= first + count) return std::optional<Shard>();
    tail = layer->second;
    s.name = cat(kLayers, layer->first - first, ".", tail);
  } else if (info.name.starts_with("lm_head.") || info.name.starts_with("transformer.ln_f.") || info.name.starts_with("transformer.project_out.")) {
    if (pp_rank != m.pp_size - 1) return std::optional<Shard>();
  } else if (pp_rank != 0 && !(c.share_embedding_table && info.name == "transformer.vocab_embedding.weight" && pp_rank == m.pp_size - 1)) {
    return std::optional<Shard>();
  }
  s.full_width = s.columns = (info.shape.rank() < 2 && !is_input_scale(info.name)) || is_stack_of_scales(info) ? 1 : info.shape[-1];
  const int64_t rows = s.full_width > 0 ? info.shape.elements() / s.full_width : 0;
  const Rule r = TRY(rule_of(c, info, tail, rows, tp));
  if (r.bias_of_columns && tp_rank != 0) return std::optional<Shard>(std::move(s));  // no rows: zeros
  if (r.split != Split::kRows) {
    s.rows = {{0, 0, rows}};
    if (r.split == Split::kColumns) {
      if (s.full_width % tp != 0) {
        const Error e = indivisible(cat("the width of '", info.name, "'"), s.full_width, tp);
        if (!info.name.ends_with(".weights_scaling_factor")) return e;
        return Error(e.code(), cat(e.message(), ": a group of inputs would lie on two ranks, want a smaller --group_size"));
      }
      s.columns = s.full_width / tp;
      s.column_begin = s.columns * tp_rank;
      s.shape[-1] = s.columns;
    }
    return std::optional<Shard>(std::move(s));
  }
  int64_t per_expert = 0;
  for (int64_t part : r.parts) per_expert += part;
  const bool head = info.name.starts_with("lm_head.") || is_sharded_table(c, info.name, 0);
  const int64_t stacks = head ? 1 : rows / std::max<int64_t>(per_expert, 1);
  if (!head && (stacks < 1 || stacks * per_expert != rows))
    return Error(Code::kInvalidArgument, cat("tensor '", info.name, "' has shape ", str(info.shape), ", want a multiple of ", per_expert, " rows"));
  int64_t to = 0, from = 0;
  for (int64_t e = 0; e < stacks; ++e)
    for (size_t i = 0; i < r.parts.size(); ++i) {
      const int64_t pieces = tp / r.repeats[i];
      if (r.parts[i] % pieces != 0) return indivisible(cat("rows of '", info.name, "'"), r.parts[i], tp);
      const int64_t count = r.parts[i] / pieces, begin = from + count * (tp_rank / r.repeats[i]);
      const int64_t real = std::min(count, std::max<int64_t>(0, rows - begin));  // the head's padding is zero
      if (real > 0) s.rows.push_back({begin, to, real});
      to += count;
      from += r.parts[i];
    }
  if (info.shape.rank() == 3 || is_stack_of_scales(info)) s.shape[1] = to / stacks;
  else s.shape[0] = to;
  return std::optional<Shard>(std::move(s));
}

Status take(const Shard& s, const View& full, std::span<std::byte> out) {
  const size_t part = static_cast<size_t>(row_bytes(full.dtype, s.columns)), whole = static_cast<size_t>(row_bytes(full.dtype, s.full_width)),
               skip = static_cast<size_t>(row_bytes(full.dtype, s.column_begin));
  std::memset(out.data(), 0, out.size());
  for (const Shard::Rows& r : s.rows)
    for (int64_t i = 0; i < r.count; ++i)
      std::memcpy(out.data() + static_cast<size_t>(r.to + i) * part, full.bytes.data() + static_cast<size_t>(r.from + i) * whole + skip, part);
  return {};
}

Status put(const Shard& s, const View& view, std::span<std::byte> full) {
  const size_t part = static_cast<size_t>(row_bytes(view.dtype, s.columns)), whole = static_cast<size_t>(row_bytes(view.dtype, s.full_width)),
               skip = static_cast<size_t>(row_bytes(view.dtype, s.column_begin));
  for (const Shard::Rows& r : s.rows)
    for (int64_t i = 0; i < r.count; ++i)
      std::memcpy(full.data() + static_cast<size_t>(r.from + i) * whole + skip, view.bytes.data() + static_cast<size_t>(r.to + i) * part, part);
  return {};
}

Result<std::unique_ptr<JoinedCheckpoint>> JoinedCheckpoint::open(const std::string& directory) {
  auto out = std::make_unique<JoinedCheckpoint>();
  out->checkpoint_ = std::make_unique<checkpoint::Checkpoint>(TRY(checkpoint::Checkpoint::open(directory)));
  out->config_ = out->checkpoint_->config();
  const Mapping m = out->config_.mapping;
  TRY(check_sharding(out->config_, m.tp_size, m.pp_size));
  out->sharded_ = out->config_;
  out->config_.use_parallel_embedding = false;
  out->config_.mapping.world_size = out->config_.mapping.tp_size = out->config_.mapping.pp_size = 1;
  // The full shapes follow from tensor rank 0 of each pipeline rank: the extent whose shard gives the stored one.
  for (int pp = 0; pp < m.pp_size; ++pp) {
    const int rank = pp * m.tp_size;
    for (const TensorInfo& stored : out->checkpoint_->rank(rank).list()) {
      TensorInfo full = stored;
      if (const auto layer = layer_of(stored.name)) full.name = cat(kLayers, layer->first + first_layer(out->config_, m, pp), ".", layer->second);
      if (out->index_.count(full.name)) continue;  // a tied table on the first and the last pipeline rank
      bool found = false;
      const int row_axis = stored.shape.rank() == 3 ? 1 : 0;
      const int64_t q = int64_t{out->config_.num_attention_heads} * out->config_.head_size, kv = int64_t{out->config_.num_key_value_heads} * out->config_.head_size;
      for (const auto& [axis, extent] : {std::pair<int, int64_t>{0, -1}, {row_axis, stored.shape.rank() ? stored.shape[row_axis] * m.tp_size : 1},
                                         {row_axis, q + 2 * kv}, {row_axis, out->config_.vocab_size},
                                         {stored.shape.rank() - 1, stored.shape.rank() ? stored.shape[-1] * m.tp_size : 1}}) {
        if (stored.shape.rank() == 0) break;
        TensorInfo guess = full;
        if (extent >= 0) guess.shape[axis] = extent;
        const bool vocabulary = guess.name.starts_with("lm_head.") || guess.name.starts_with("transformer.vocab_embedding.");
        if (vocabulary && m.tp_size > 1 && guess.shape[0] != out->config_.vocab_size) continue;
        const Result<std::optional<Shard>> s = shard_of(out->sharded_, guess, m, rank);
        if (!s.ok() || !s->has_value() || !((*s)->shape == stored.shape)) continue;
        full.shape = guess.shape;
        found = true;
        break;
      }
      if (!found)
        return Error(Code::kInvalidArgument, cat("tensor '", stored.name, "' of rank ", rank, " in ", directory, " has shape ", str(stored.shape),
                                                 ", which is no shard by tp_size ", m.tp_size));
      out->index_.emplace(full.name, out->infos_.size());
      out->infos_.push_back(std::move(full));
    }
  }
  return out;
}

const TensorInfo* JoinedCheckpoint::info(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &infos_[it->second];
}

Result<View> JoinedCheckpoint::find(std::string_view name) const {
  const TensorInfo* t = info(name);
  if (!t) return Error(Code::kNotFound, cat("checkpoint ", path(), " has no tensor '", name, "'"));
  const Mapping& m = checkpoint_->config().mapping;
  if (m.world_size == 1) return checkpoint_->rank(0).find(name);
  std::unique_lock lock(mutex_);
  auto it = made_.find(name);
  if (it == made_.end()) {
    lock.unlock();
    std::vector<std::byte> bytes(static_cast<size_t>(storage_bytes(t->dtype, t->shape.elements())));
    for (int rank = 0; rank < m.world_size; ++rank) {
      const std::optional<Shard> s = TRY(shard_of(sharded_, *t, m, rank));
      if (!s || s->rows.empty()) continue;
      const View part = TRY(checkpoint_->rank(rank).find(s->name));
      if (!(part.shape == s->shape) || part.dtype != t->dtype)
        return Error(Code::kInvalidArgument, cat("tensor '", s->name, "' of rank ", rank, " in ", path(), " is ", dtype_name(part.dtype), " ", str(part.shape),
                                                 ", want ", dtype_name(t->dtype), " ", str(s->shape)));
      TRY(put(*s, part, bytes));
      checkpoint_->rank(rank).forget(s->name);
    }
    lock.lock();
    it = made_.try_emplace(std::string(name), std::move(bytes)).first;
  }
  return View{t->dtype, t->shape, it->second};
}

void JoinedCheckpoint::forget(std::string_view name) const {
  std::lock_guard lock(mutex_);
  if (auto it = made_.find(name); it != made_.end()) made_.erase(it);
}

}  // namespace ingot::convert
