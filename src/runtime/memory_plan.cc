#include <algorithm>
#include <map>
#include <set>

#include "base/log.h"
#include "runtime/runtime.h"

namespace ingot::runtime {
namespace {

int64_t kv_token_bytes(const plan::Plan& p, DType dtype) {
  int64_t bytes = 0;
  for (const ingot_kv_layer& l : p.kv_layers) {
    bytes += storage_bytes(dtype, int64_t{l.kv_heads} * (l.head_dim + (l.v_head_dim ? l.v_head_dim : l.head_dim)));
    if (dtype == DType::kI8) bytes += int64_t{l.kv_heads} * 2 * 4;  // a scale for each head's key and value
  }
  return bytes;
}

int64_t bytes_of(const plan::Weight& w) { return static_cast<int64_t>(w.generator ? op::raw_sizes(w.desc).total() : w.bytes); }

int64_t weight_bytes(const plan::Plan& p) {
  int64_t bytes = 0;
  for (const plan::Weight& w : p.weights) bytes += bytes_of(w);
  return bytes;
}

int64_t step_weight_bytes(const plan::Plan& p) {
  std::set<int32_t> read;
  for (const plan::Step& s : p.steps)
    if (s.op != op::Op::kEmbedding) read.insert(s.weights.begin(), s.weights.end());
  int64_t bytes = 0;
  for (const int32_t w : read) bytes += w < 0 ? 0 : bytes_of(p.weights[static_cast<size_t>(w)]);
  return bytes;
}

int positive_or(int value, int otherwise) { return value > 0 ? value : otherwise; }

}  // namespace

Result<MemoryPlan> plan_memory(const plan::Plan& p, const RuntimeOptions& o, const ingot_device_properties& device) {
  MemoryPlan m;
  m.free_bytes = device.free_bytes;
  m.weights_bytes = weight_bytes(p);
  m.step_weight_bytes = step_weight_bytes(p);
  m.page_tokens = p.page_tokens;
  m.kv_dtype = o.kv_cache_dtype == "auto" ? p.kv_dtype : o.kv_cache_dtype == "int8" ? DType::kI8 : o.kv_cache_dtype == "fp8" ? DType::kF8E4M3 : TRY(parse_dtype(o.kv_cache_dtype));
  if (m.kv_dtype != DType::kF32 && m.kv_dtype != DType::kF16 && m.kv_dtype != DType::kBf16 && m.kv_dtype != DType::kI8 && m.kv_dtype != DType::kF8E4M3)
    return Error(Code::kInvalidArgument, cat("kv-cache-dtype is ", o.kv_cache_dtype, ", want auto, float32, float16, bfloat16, int8 or fp8"));
  m.max_batch_size = positive_or(o.max_batch_size, p.limits.max_batch_size);
  // A CPU is saturated by some hundred rows; longer steps only delay the sequences that decode beside a prompt.
  m.max_num_tokens = positive_or(o.max_num_tokens, device.unified_memory ? std::min(p.limits.max_num_tokens, 512) : p.limits.max_num_tokens);
  m.max_num_tokens = std::max(m.max_num_tokens, m.max_batch_size);
  m.max_seq_len = positive_or(o.max_seq_len, positive_or(p.limits.max_seq_len, positive_or(p.max_positions, 4096)));
  // Rows of logits: one a sequence, more for requests that want those of their prompt.
  const bool all_rows = p.gather_context_logits || p.gather_generation_logits || device.unified_memory;
  m.max_logits = all_rows ? m.max_num_tokens : std::min(m.max_num_tokens, std::max(2 * m.max_batch_size, 512));

  std::map<int32_t, int64_t> arenas;
  for (size_t b = INGOT_BUF_FIRST_FREE; b < p.buffers.size(); ++b) {
    const plan::Buffer& buffer = p.buffers[b];
    const int64_t rows = buffer.rows == INGOT_ROWS_LOGITS ? m.max_logits : m.max_num_tokens;
    int64_t& bytes = arenas[buffer.arena];
    bytes = std::max(bytes, rows * storage_bytes(buffer.dtype, buffer.width));
  }
  for (const auto& [arena, bytes] : arenas) m.activation_bytes += bytes;
  m.logits_bytes = int64_t{m.max_logits} * p.vocab_size * 4;
  if (!p.state_widths.empty()) {
    // One working row for each running sequence; as many again, up to 64, for the snapshots of shared prefixes.
    m.state_rows = m.max_batch_size + std::min(m.max_batch_size, 64);
    for (int32_t w : p.state_widths) m.state_bytes += int64_t{m.state_rows} * w * 4;
  }
  if (p.kv_layers.empty()) return m;

  m.kv_page_bytes = kv_token_bytes(p, m.kv_dtype) * m.page_tokens;
  const int64_t sequence_pages = (int64_t{m.max_seq_len} + m.page_tokens - 1) / m.page_tokens;
  const int64_t all_pages = sequence_pages * m.max_batch_size;  // more could never be used at once
  // Mapped weights are page cache that the system reports as free, but they are needed all the time.
  const int64_t room = m.free_bytes - m.weights_bytes - m.activation_bytes - m.logits_bytes - m.state_bytes;
  if (o.max_tokens_in_paged_kv_cache > 0) {
    m.pages = (o.max_tokens_in_paged_kv_cache + m.page_tokens - 1) / m.page_tokens;
  } else {
    const double share = o.kv_cache_free_gpu_mem_fraction > 0 ? o.kv_cache_free_gpu_mem_fraction : device.unified_memory ? 0.3 : 0.9;
    m.pages = std::min(all_pages, static_cast<int64_t>(static_cast<double>(std::max<int64_t>(room, 0)) * share) / m.kv_page_bytes);
  }
  m.pages = std::min<int64_t>(m.pages, 1 << 24);
  m.kv_bytes = m.pages * m.kv_page_bytes;
  if (m.pages < 1 || m.kv_bytes > room)
    return Error(Code::kUnavailable, cat("the model does not fit: ", human_bytes(static_cast<double>(m.free_bytes)), " free on ", device.name, ", wanted ", human_bytes(static_cast<double>(m.weights_bytes)), " for weights, ",
                                         human_bytes(static_cast<double>(m.activation_bytes + m.logits_bytes + m.state_bytes)), " for activations, ", human_bytes(static_cast<double>(std::max(m.kv_bytes, m.kv_page_bytes))), " for the KV cache; lower max-num-tokens, max-batch-size or max-tokens-in-paged-kv-cache"));
  // A sequence can be no longer than the pool.
  m.max_seq_len = static_cast<int>(std::min<int64_t>(m.max_seq_len, m.pages * m.page_tokens));
  return m;
}

std::string str(const MemoryPlan& m) {
  auto line = [](const char* what, int64_t bytes, const std::string& note) { return cat("  ", what, std::string(14 - std::string_view(what).size(), ' '), human_bytes(static_cast<double>(bytes)), note.empty() ? "" : "  ", note, "\n"); };
  std::string out = "memory plan:\n";
  out += line("weights", m.weights_bytes, m.weights_mapped_bytes ? cat(human_bytes(static_cast<double>(m.weights_mapped_bytes)), " of them in place in the file") : "");
  out += line("kv cache", m.kv_bytes, m.pages ? cat(m.pages, " pages of ", m.page_tokens, " tokens in ", dtype_name(m.kv_dtype), ", ", m.pages * m.page_tokens, " tokens") : "");
  if (m.state_bytes) out += line("state", m.state_bytes, cat(m.state_rows, " rows"));
  out += line("activations", m.activation_bytes, cat(m.max_num_tokens, " tokens a step, ", m.max_batch_size, " sequences"));
  out += line("logits", m.logits_bytes, cat("up to ", m.max_logits, " rows"));
  out += line("free before", m.free_bytes, "");
  return out;
}

}  // namespace ingot::runtime
