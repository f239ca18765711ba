#include "models/internal/renamed_source.h"

#include <charconv>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>

namespace ingot::models::internal {
namespace {

using formats::TensorInfo;
using formats::TensorSource;

// One published tensor: rows of one or several stored ones.
struct Entry {
  std::vector<std::string> stored;
  Shape shape;
  int64_t first = 0;                       // row of the stored tensor that is row 0 (experts lie in one stack)
  std::function<int64_t(int64_t)> order;  // row -> row of the stored ones one after the other; empty: as they lie
};

// Stored row (head, j, half) is row (head, half, j).
std::function<int64_t(int64_t)> unpair(int64_t rows, int64_t heads) {
  return [half = rows / heads / 2](int64_t r) {
    const int64_t head = r / (2 * half), p = r / half % 2, j = r % half;
    return (head * half + j) * 2 + p;
  };
}

// Published: for each key head its queries, its key, its value; stored: all queries, all keys, all values.
std::function<int64_t(int64_t)> regroup(const HeadCounts& s) {
  return [s, per = s.heads / s.kv_heads](int64_t r) {
    const int64_t group = r / ((per + 2) * s.head_dim), slot = r / s.head_dim % (per + 2), d = r % s.head_dim;
    const int64_t head = slot < per ? group * per + slot : slot == per ? s.heads + group : s.heads + s.kv_heads + group;
    return head * s.head_dim + d;
  };
}

class RenamedSource : public TensorSource {
 public:
  RenamedSource(std::unique_ptr<TensorSource> source, const GgufFamily& family, HeadCounts shape) : source_(std::move(source)), family_(family), shape_(shape) {}

  Status fill() {
    for (const TensorInfo& t : source_->list()) TRY(add(t));
    for (size_t i = 0; i < infos_.size(); ++i) index_.emplace(infos_[i].name, i);
    return {};
  }

  formats::SourceKind kind() const override { return source_->kind(); }
  const std::string& path() const override { return source_->path(); }
  std::span<const TensorInfo> list() const override { return infos_; }
  const formats::GgufFile* gguf() const override { return source_->gguf(); }
  const TensorInfo* info(std::string_view name) const override {
    auto it = index_.find(name);
    return it == index_.end() ? nullptr : &infos_[it->second];
  }

  Result<View> find(std::string_view name) const override {
    auto it = entries_.find(name);
    if (it == entries_.end()) return Error(Code::kNotFound, cat(path(), " has no tensor '", name, "'"));
    const Entry& e = it->second;
    const View first = TRY(source_->find(e.stored[0]));
    const int64_t width = e.shape.rank() > 1 ? e.shape[-1] : 1, rows = width > 0 ? e.shape.elements() / width : 0;
    if (e.stored.size() == 1 && !e.order) {
      const size_t begin = static_cast<size_t>(storage_bytes(first.dtype, e.first * width)), bytes = static_cast<size_t>(storage_bytes(first.dtype, e.shape.elements()));
      return View{first.dtype, e.shape, first.bytes.subspan(begin, bytes)};
    }
    std::unique_lock lock(mutex_);
    auto made = made_.find(name);
    if (made == made_.end()) {
      lock.unlock();
      std::vector<std::byte> out = TRY(gather(e, first.dtype, rows, width));
      lock.lock();
      made = made_.try_emplace(std::string(name), std::move(out)).first;
    }
    return View{first.dtype, e.shape, made->second};
  }

  void forget(std::string_view name) const override {
    auto it = entries_.find(name);
    if (it == entries_.end()) return;
    for (const std::string& s : it->second.stored) source_->forget(s);
    std::lock_guard lock(mutex_);
    if (auto made = made_.find(name); made != made_.end()) made_.erase(made);
  }

 private:
  // Whole rows move, so quantised blocks stay as they are.
  Result<std::vector<std::byte>> gather(const Entry& e, DType dtype, int64_t rows, int64_t width) const {
    std::vector<View> views;
    std::vector<int64_t> ends;
    for (const std::string& s : e.stored) {
      views.push_back(TRY(source_->find(s)));
      ends.push_back((ends.empty() ? 0 : ends.back()) + views.back().shape.elements() / width);
    }
    const size_t bytes = static_cast<size_t>(storage_bytes(dtype, width));
    std::vector<std::byte> out(static_cast<size_t>(rows) * bytes);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t from = e.order ? e.order(r) : r;
      size_t part = 0;
      while (from >= ends[part]) ++part;
      if (part > 0) from -= ends[part - 1];
      std::memcpy(out.data() + static_cast<size_t>(r) * bytes, views[part].bytes.data() + static_cast<size_t>(from) * bytes, bytes);
    }
    return out;
  }

  Status add(const TensorInfo& t) {
    const std::string_view name = t.name;
    const size_t dot = name.rfind('.');
    const std::string_view suffix = dot == name.npos ? std::string_view() : name.substr(dot);
    std::string_view stem = name.substr(0, std::min(dot, name.size()));
    if (name.find("rope_freqs") != name.npos || name.starts_with("rope_factors_") || name == "rope.freqs" || name.find("attn_rot_embd") != name.npos) return {};
    for (const Name& n : family_.top)
      if (stem == n.gguf) return put(cat(n.published, suffix), t, {});
    const std::string_view stored_prefix = family_.stored_prefix;
    if (!stem.starts_with(stored_prefix)) return unknown(t);
    const size_t end = stem.find('.', stored_prefix.size());
    if (end == stem.npos) return unknown(t);
    const std::string layer(stem.substr(stored_prefix.size(), end - stored_prefix.size()));
    std::string_view tail = stem.substr(end + 1);
    const std::string prefix = cat(family_.layer_prefix, layer, ".");
    if (tail.ends_with("_exps")) return add_experts(t, prefix, tail.substr(0, tail.size() - 5), suffix, -1);
    // One tensor an expert, as the first mixtures were written: blk.3.ffn_gate.5.weight
    if (const size_t at = tail.rfind('.'); at != tail.npos && family_.experts.size() == 3) {
      int64_t expert = 0;
      const std::string_view digits = tail.substr(at + 1);
      if (std::from_chars(digits.data(), digits.data() + digits.size(), expert).ec == std::errc()) return add_experts(t, prefix, tail.substr(0, at), suffix, expert);
    }
    if (family_.qkv == QkvRows::kPackedPairs && (tail == "attn_q" || tail == "attn_k" || tail == "attn_v")) return add_packed(t, prefix, layer, tail, suffix);
    for (const Name& n : family_.layer) {
      if (tail != n.gguf) continue;
      std::function<int64_t(int64_t)> order;
      const int64_t rows = t.shape.rank() > 0 ? t.shape[0] : 0;
      if (family_.qkv == QkvRows::kPairs && (n.published == std::string_view("self_attn.q_proj") || n.published == std::string_view("self_attn.k_proj"))) {
        const int64_t heads = n.published == std::string_view("self_attn.q_proj") ? shape_.heads : shape_.kv_heads;
        if (rows < 1 || rows % (2 * heads) != 0) return wrong(t, cat("rows that divide into ", heads, " heads of even width"));
        order = unpair(rows, heads);
      } else if (family_.qkv == QkvRows::kGrouped && tail == "attn_qkv") {
        if (rows != (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim) return wrong(t, cat((shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim, " rows"));
        order = regroup(shape_);
      }
      return put(cat(prefix, n.published, suffix), t, std::move(order));
    }
    return unknown(t);
  }

  Status add_experts(const TensorInfo& t, const std::string& prefix, std::string_view stem, std::string_view suffix, int64_t expert) {
    for (const Name& n : family_.experts) {
      if (stem != n.gguf) continue;
      if (expert >= 0) return put(cat(prefix, family_.expert_prefix, expert, ".", n.published, suffix), t, {});
      if (t.shape.rank() != 3) return wrong(t, "a stack of matrices");
      for (int64_t e = 0; e < t.shape[0]; ++e) {
        std::string name = cat(prefix, family_.expert_prefix, e, ".", n.published, suffix);
        infos_.push_back({name, t.dtype, {t.shape[1], t.shape[2]}});
        entries_.emplace(std::move(name), Entry{{t.name}, {t.shape[1], t.shape[2]}, e * t.shape[1], {}});
      }
      return {};
    }
    return unknown(t);
  }

  // Baichuan's W_pack: the rows of q and k in pairs, and those of v.
  Status add_packed(const TensorInfo& t, const std::string& prefix, const std::string& layer, std::string_view tail, std::string_view suffix) {
    if (tail != "attn_q") return {};
    Entry e;
    int64_t width = 0, rows = 0;
    for (const char* part : {"attn_q", "attn_k", "attn_v"}) {
      const std::string name = cat(family_.stored_prefix, layer, ".", part, suffix);
      const TensorInfo* info = source_->info(name);
      if (!info || info->shape.rank() != 2 || info->shape[0] != shape_.heads * shape_.head_dim || info->dtype != t.dtype)
        return Error(Code::kInvalidArgument, cat(path(), ": tensor '", name, "' is absent or differs from '", t.name, "' in shape or type, want ", shape_.heads * shape_.head_dim, " rows of one type"));
      e.stored.push_back(name);
      width = info->shape[1];
      rows = info->shape[0];
    }
    e.shape = {3 * rows, width};
    e.order = [rows, pair = unpair(rows, shape_.heads)](int64_t r) { return r < 2 * rows ? r / rows * rows + pair(r % rows) : r; };
    std::string name = cat(prefix, "self_attn.W_pack", suffix);
    infos_.push_back({name, t.dtype, e.shape});
    entries_.emplace(std::move(name), std::move(e));
    return {};
  }

  Status put(std::string name, const TensorInfo& t, std::function<int64_t(int64_t)> order) {
    Shape shape = t.shape;
    if (name.ends_with("_bias.bias")) name.resize(name.size() - 5);  // a tensor that is published without a suffix
    if (name.ends_with(".shared_expert_gate.weight") && shape.rank() == 1) shape = {1, shape[0]};  // a matrix of one row
    infos_.push_back({name, t.dtype, shape});
    if (!entries_.emplace(std::move(name), Entry{{t.name}, shape, 0, std::move(order)}).second)
      return Error(Code::kInvalidArgument, cat("tensor '", t.name, "' in ", path(), " stands there under two names"));
    return {};
  }

  Status unknown(const TensorInfo& t) const {
    return Error(Code::kUnsupported, cat("tensor '", t.name, "' in ", path(), " is none that architecture '", family_.architecture, "' has"));
  }
  Status wrong(const TensorInfo& t, const std::string& want) const {
    return Error(Code::kInvalidArgument, cat("tensor '", t.name, "' in ", path(), " has shape ", str(t.shape), ", want ", want));
  }

  std::unique_ptr<TensorSource> source_;
  const GgufFamily& family_;
  const HeadCounts shape_;
  std::vector<TensorInfo> infos_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, Entry, std::less<>> entries_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::vector<std::byte>, std::less<>> made_;
};

}  // namespace

Result<std::unique_ptr<TensorSource>> rename_tensors(std::unique_ptr<TensorSource> source, const GgufFamily& family, const HeadCounts& counts) {
  if (counts.heads < 1 || counts.kv_heads < 1 || counts.heads % counts.kv_heads != 0)
    return Error(Code::kInvalidArgument, cat(source->path(), ": ", counts.heads, " heads and ", counts.kv_heads, " key heads, want the one a multiple of the other"));
  auto named = std::make_unique<RenamedSource>(std::move(source), family, counts);
  TRY(named->fill());
  return std::unique_ptr<TensorSource>(std::move(named));
}

}  // namespace ingot::models::internal
