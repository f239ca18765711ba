#include "runtime/internal/flight.h"

#include <algorithm>

#include "base/random.h"

namespace ingot::runtime::internal {
namespace {

using sched::Token;
using sched::value;

// One step's filling. Arrays that are pointed into (history, bias, banned) grow while rows are added, so rows hold offsets until the end.
class Fill {
 public:
  Fill(Flight& f, const FillCall& call) : f_(f), call_(call), plan_(call.plan), limits_(call.limits) {}

  Status run() {
    TRY(slices());
    TRY(samples());
    TRY(wanted_logits());
    bind();
    return {};
  }

 private:
  Slot& slot(sched::SlotId id) {
    const size_t i = static_cast<size_t>(value(id));
    if (call_.slots.size() <= i) call_.slots.resize(i + 1);
    return call_.slots[i];
  }

  // The id of a kSampledInFlight: known, or -1 - row of the launch before.
  Result<Token> in_flight(sched::SlotId id) {
    const Slot& s = slot(id);
    if (s.known) return s.id;
    if (s.launch == call_.newest && call_.newest_open && s.row >= 0) return -1 - s.row;
    return Error(Code::kInternal, cat("slot ", value(id), " waits for an id of launch ", s.launch, ", which gave none"));
  }

  Status slices() {
    f_.slice_begin.push_back(0);
    if (static_cast<int>(plan_.slices.size()) > limits_.max_slices) return too_many("sequences", plan_.slices.size(), limits_.max_slices, "max-batch-size");
    for (const sched::Slice& s : plan_.slices) {
      TRY(slice_tokens(s));
      f_.slice_begin.push_back(static_cast<int32_t>(f_.tokens.size()));
      f_.kv_length.push_back(s.end);
      const size_t row = f_.page_table.size();
      f_.page_table.resize(row + static_cast<size_t>(limits_.max_pages_per_sequence));
      const size_t pages = static_cast<size_t>((s.end + limits_.page_tokens - 1) / limits_.page_tokens);
      if (pages > static_cast<size_t>(limits_.max_pages_per_sequence))
        return Error(Code::kInvalidArgument, cat("a sequence of ", s.end, " tokens is longer than max-seq-len allows, ", int64_t{limits_.max_pages_per_sequence} * limits_.page_tokens));
      CHECK(s.pages.size() >= pages, s.pages.size(), " pages for ", s.end, " tokens");
      for (size_t i = 0; i < pages; ++i) {
        CHECK(value(s.pages[i]) >= 0 && value(s.pages[i]) < limits_.pages, "page ", value(s.pages[i]));
        f_.page_table[row + i] = value(s.pages[i]);
      }
      f_.state_slot.push_back(value(s.state));
      if (limits_.state_rows > 0) {
        CHECK(value(s.state) >= 0 && value(s.state) < limits_.state_rows, "state row ", value(s.state));
        if (s.begin == 0) f_.clear_states.push_back(value(s.state));
      }
    }
    if (static_cast<int>(f_.tokens.size()) > limits_.max_tokens) return too_many("tokens", f_.tokens.size(), limits_.max_tokens, "max-num-tokens");
    return {};
  }

  Status slice_tokens(const sched::Slice& s) {
    if (limits_.position_rows > 0 && s.end > limits_.position_rows)
      return Error(Code::kInvalidArgument, cat("a sequence of ", s.end, " tokens is longer than the model's ", limits_.position_rows, " positions"));
    for (int p = s.begin; p < s.end; ++p) {
      Token t = s.tokens[static_cast<size_t>(p)];
      if (t == sched::kSampledInFlight) {
        t = TRY(in_flight(s.slot));
      } else if (sched::is_embedding_row(t)) {
        t = TRY(embedding(s, sched::embedding_row_of(t)));
      } else if (t >= limits_.token_rows) {
        return Error(Code::kInvalidArgument, cat("token id ", t, " at position ", p, " is outside the vocabulary, 0 .. ", limits_.token_rows - 1));
      }
      f_.tokens.push_back(t);
      f_.positions.push_back(p);
      f_.prompt_length.push_back(s.rope_regime > 0 ? s.rope_regime : s.prompt_tokens);
    }
    return {};
  }

  Result<Token> embedding(const sched::Slice& s, int row) {
    if (!s.embeddings || row >= s.embeddings->count) return Error(Code::kInvalidArgument, cat("prompt uses row ", row, " of an embedding table of ", s.embeddings ? s.embeddings->count : 0, " rows"));
    if (s.embeddings->width != limits_.hidden_size)
      return Error(Code::kInvalidArgument, cat("embedding table is ", s.embeddings->width, " wide, want ", limits_.hidden_size, " (hidden_size of the model)"));
    const int32_t number = static_cast<int32_t>(f_.embedding_rows.size() / static_cast<size_t>(limits_.hidden_size));
    const float* from = s.embeddings->rows + static_cast<int64_t>(row) * limits_.hidden_size;
    f_.embedding_rows.insert(f_.embedding_rows.end(), from, from + limits_.hidden_size);
    return limits_.vocab_size + number;
  }

  // Row of T that holds the slice's position.
  int32_t row_of(int slice, int position) const {
    const sched::Slice& s = plan_.slices[static_cast<size_t>(slice)];
    CHECK(position >= s.begin && position < s.end, "position ", position, " of slice [", s.begin, ", ", s.end, ")");
    return f_.slice_begin[static_cast<size_t>(slice)] + position - s.begin;
  }

  Status samples() {
    for (const sched::Sample& sample : plan_.samples) {
      const sched::Slice& s = plan_.slices[static_cast<size_t>(sample.slice)];
      const int first = static_cast<int>(f_.logits_row.size());
      Sample info{first, sample.drafts, sample.params->logprobs, value(sample.slot), static_cast<int>(f_.drafts.size())};
      for (int j = 0; j <= sample.drafts; ++j) {
        f_.logits_row.push_back(row_of(sample.slice, sample.position + j));
        if (j < sample.drafts) f_.drafts.push_back(s.tokens[static_cast<size_t>(sample.position + 1 + j)]);
        TRY(sampling_row(s, sample, sample.position + j));
      }
      f_.samples.push_back(info);
    }
    return {};
  }

  Status sampling_row(const sched::Slice& s, const sched::Sample& sample, int position) {
    const sched::SamplingParams& p = *sample.params;
    ingot_sampling row{};
    row.temperature = p.temperature;
    row.top_p = p.top_p;
    row.min_p = p.min_p;
    row.top_k = p.top_k;
    row.repetition_penalty = p.repetition_penalty;
    row.presence_penalty = p.presence_penalty;
    row.frequency_penalty = p.frequency_penalty;
    row.logprobs = std::min(p.logprobs, INGOT_MAX_TOP_LOGPROBS);
    // Sequences of one request differ in their stream; the first one's is that of a request alone.
    row.seed = sample.fork == 0 ? p.seed : mix64(p.seed + static_cast<uint64_t>(sample.fork) * 0x9e3779b97f4a7c15u);
    row.position = position + 1;
    row.n_prompt = s.prompt_tokens;
    row.mask = p.token_mask;
    row.feedback_from_previous = -1;
    for (const auto& [id, bias] : p.logit_bias) {
      f_.bias_ids.push_back(id);
      f_.bias_values.push_back(bias);
    }
    row.n_bias = static_cast<int32_t>(p.logit_bias.size());
    const bool penalties = p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
    // Bans that depend on the ids before, on the host.
    const bool words = p.no_repeat_ngram > 0 || std::any_of(p.bad_words.begin(), p.bad_words.end(), [](const auto& w) { return w.size() > 1; });
    const bool minimum = position + 1 - s.prompt_tokens < p.min_tokens;
    if (penalties || words) TRY(add_history(s, position, words, row));
    if (words || !p.bad_words.empty() || minimum) {
      const size_t before = f_.banned.size();
      const std::span<const Token> history = words ? std::span<const Token>(f_.history).last(static_cast<size_t>(position + 1)) : s.tokens.first(static_cast<size_t>(position + 1));
      sched::for_each_banned(p, history, s.prompt_tokens, [&](Token id) { f_.banned.push_back(id); });
      row.n_banned = static_cast<int32_t>(f_.banned.size() - before);
    }
    f_.sampling.push_back(row);
    return {};
  }

  // Ids of positions [0, position]; an id in flight can only be the last one.
  Status add_history(const sched::Slice& s, int position, bool on_host, ingot_sampling& row) {
    row.n_history = position + 1;
    for (int p = 0; p <= position; ++p) {
      Token t = s.tokens[static_cast<size_t>(p)];
      if (t == sched::kSampledInFlight) {
        t = TRY(in_flight(s.slot));
        if (t < 0) {
          if (on_host) call_.needs_host = true;
          row.feedback_from_previous = -1 - t;
          --row.n_history;
        }
      }
      f_.history.push_back(t);
    }
    return {};
  }

  Status wanted_logits() {
    for (size_t i = 0; i < plan_.slices.size(); ++i) {
      const sched::Slice& s = plan_.slices[i];
      if (!s.return_logits) continue;
      if (s.hidden && limits_.hidden_buffer < 0)
        return Error(Code::kUnsupported, "hidden states are wanted, but this engine's logits do not come out of a linear step that reads one row a token");
      for (int p = s.logits_begin; p < s.end; ++p) {
        const int32_t row = row_of(static_cast<int>(i), p);
        std::vector<int32_t>& wanted = s.hidden ? f_.wanted_hidden : f_.wanted_logits;
        auto known = std::find(f_.logits_row.begin(), f_.logits_row.end(), row);
        wanted.push_back(static_cast<int32_t>(known - f_.logits_row.begin()));
        if (known != f_.logits_row.end()) continue;
        f_.logits_row.push_back(row);
        ingot_sampling greedy{};
        greedy.repetition_penalty = 1;
        greedy.top_p = 1;
        greedy.logprobs = -1;
        greedy.feedback_from_previous = -1;
        f_.sampling.push_back(greedy);
      }
    }
    if (static_cast<int>(f_.logits_row.size()) > limits_.max_logits)
      return Error(Code::kInvalidArgument, cat("a step wants ", f_.logits_row.size(), " rows of logits, this engine gives ", limits_.max_logits, " on its device; build it with --gather_context_logits, or take a smaller max-num-tokens"));
    return {};
  }

  static Error too_many(const char* what, size_t found, int want, const char* option) {
    return Error(Code::kInvalidArgument, cat("a step has ", found, " ", what, ", at most ", want, " fit (", option, ")"));
  }

  void bind() {
    for (const sched::PageCopy& c : plan_.page_copies) {
      f_.copy_pages.push_back(value(c.from));
      f_.copy_pages.push_back(value(c.to));
    }
    for (const sched::StateCopy& c : plan_.state_loads) {
      f_.copy_states.push_back(value(c.from));
      f_.copy_states.push_back(value(c.to));
    }
    size_t history = 0, bias = 0, banned = 0;
    size_t i = 0;
    for (const Sample& s : f_.samples)
      for (int j = 0; j <= s.drafts; ++j, ++i) {
        ingot_sampling& row = f_.sampling[i];
        // n_history leaves out an id in flight, which still takes a place.
        if (row.n_history > 0 || row.feedback_from_previous >= 0) {
          row.history = f_.history.data() + history;
          history += static_cast<size_t>(row.n_history) + (row.feedback_from_previous >= 0 ? 1 : 0);
        }
        row.bias_ids = f_.bias_ids.data() + bias;
        row.bias_values = f_.bias_values.data() + bias;
        bias += static_cast<size_t>(row.n_bias);
        row.banned = f_.banned.data() + banned;
        banned += static_cast<size_t>(row.n_banned);
      }
    ingot_bindings& b = f_.bindings;
    b = {};
    b.struct_bytes = sizeof b;
    b.tokens_count = static_cast<int32_t>(f_.tokens.size());
    b.slices = static_cast<int32_t>(plan_.slices.size());
    b.logits = static_cast<int32_t>(f_.logits_row.size());
    b.tokens = f_.tokens.data();
    b.positions = f_.positions.data();
    b.prompt_length = f_.prompt_length.data();
    b.slice_begin = f_.slice_begin.data();
    b.kv_length = f_.kv_length.data();
    b.page_table = f_.page_table.data();
    b.state_slot = f_.state_slot.data();
    b.logits_row = f_.logits_row.data();
    b.sampling = f_.samples.empty() ? nullptr : f_.sampling.data();
    b.embedding_rows = f_.embedding_rows.empty() ? nullptr : f_.embedding_rows.data();
    b.n_embedding_rows = static_cast<int32_t>(f_.embedding_rows.size() / static_cast<size_t>(limits_.hidden_size));
    b.copy_pages = f_.copy_pages.data();
    b.n_copy_pages = static_cast<int32_t>(f_.copy_pages.size() / 2);
    b.copy_states = f_.copy_states.data();
    b.n_copy_states = static_cast<int32_t>(f_.copy_states.size() / 2);
    b.clear_states = f_.clear_states.data();
    b.n_clear_states = static_cast<int32_t>(f_.clear_states.size());
    b.want_logits = !f_.wanted_logits.empty();
    b.dump_buffer = f_.wanted_hidden.empty() ? -1 : limits_.hidden_buffer;
  }

  Flight& f_;
  const FillCall& call_;
  const sched::StepPlan& plan_;
  const StepLimits& limits_;
};

}  // namespace

void Flight::clear() {
  for (auto* v : {&tokens, &positions, &prompt_length, &slice_begin, &kv_length, &page_table, &state_slot, &logits_row, &history, &bias_ids, &banned, &copy_pages, &copy_states, &clear_states, &wanted_logits, &wanted_hidden})
    v->clear();
  sampling.clear();
  bias_values.clear();
  embedding_rows.clear();
  samples.clear();
  drafts.clear();
  collected = false;
  status = {};
}

void record(const Flight& flight, std::vector<Slot>& slots) {
  for (const Sample& s : flight.samples) {
    if (s.slot < 0) continue;
    if (slots.size() <= static_cast<size_t>(s.slot)) slots.resize(static_cast<size_t>(s.slot) + 1);
    slots[static_cast<size_t>(s.slot)] = {flight.launch, s.drafts ? -1 : s.row, -1, false};
  }
}

Status fill(Flight& flight, const FillCall& call) { return Fill(flight, call).run(); }

}  // namespace ingot::runtime::internal
