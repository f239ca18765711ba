// Yuan 2.0: Llama's block with localized filtering attention. Queries and keys come from g = rms_norm(conv2(conv1(h)) + h), two causal
// convolutions of two positions each; values from h. The MLP's activation is on up_proj. Reference: models.md 5.2 as
// tools/fixtures/golden/yuan_reference.py computes it. Golden: tests/golden/yuan*.
#include "models/decoder.h"
#include "models/hf_config.h"

namespace ingot::models {
namespace {

Result<CheckpointConfig> read_config(const Json& hf, std::string_view what) {
  CheckpointConfig c = TRY(read_decoder_config(hf, what, {.tied = true}));
  c.architecture = "YuanForCausalLM";
  c.rotary_base = TRY(read_number_or(hf, {"rope_theta"}, 10000, what));
  c.extra["use_shareqk"] = TRY(read_bool_or(hf, "use_shareqk", false, what));
  TRY(refuse_unless(hf, "causal_mask", true, what));
  // Only both flags together make the published code build a mask, and its flash path ignores every mask.
  const bool reset = TRY(read_bool_or(hf, "reset_position_ids", false, what)) && TRY(read_bool_or(hf, "reset_attention_mask", false, what)) &&
                     !TRY(read_bool_or(hf, "use_flash_attention", false, what));
  if (reset) c.extra["segment_end_token"] = TRY(read_int_or(hf, {"eod_token", "eod_token_id"}, 77185, what));
  if (c.num_key_value_heads != c.num_attention_heads)
    return Error(Code::kUnsupported, cat(what, ": 'num_key_value_heads' is ", c.num_key_value_heads, ", Yuan has as many as num_attention_heads"));
  if (c.hidden_size % 2 != 0 || c.head_size * c.num_attention_heads != c.hidden_size)
    return Error(Code::kInvalidArgument, cat(what, ": 'hidden_size' is ", c.hidden_size, ", want an even multiple of the heads"));
  return c;
}

// Rows of [q_proj; k_proj] seen as blocks of head_dim rows: head j's query is block 2j, its key block 2j + 1.
Recipe interleaved_qk(const std::string& to, const std::string& from, const Decoder& d) {
  Recipe r;
  r.name = to + ".qk.weight";
  r.shape = {2 * d.q_width(), d.hidden};
  for (int part = 0; part < 2; ++part)
    for (int tensor = 0; tensor < 2; ++tensor) {
      Piece p;
      p.tensor = from + (tensor == 0 ? ".q_proj.weight" : ".k_proj.weight");
      p.shape = {d.q_width(), d.hidden};
      p.why = "hidden_size, hidden_size";
      for (int block = part; block < 2 * d.heads; block += 2)
        if (block / d.heads == tensor) p.rows.push_back({int64_t{block % d.heads} * d.head_dim, d.head_dim});
      if (!p.rows.empty()) r.pieces.push_back(std::move(p));
    }
  return r;
}

// [out, in, 2, 1] -> [out, previous in | current in]
void map_convolution(WeightMap& map, const std::string& to, const std::string& from, int out, int in) {
  Recipe& r = map.copy(to + ".weight", from + ".weight", {out, in, 2, 1}, "outputs, inputs, 2 positions");
  r.shape = {out, 2 * in};
  r.pieces[0].row_width = 2 * in;
  r.pieces[0].columns = {{0, 2, in}, {1, 2, in}};
  map.copy(to + ".bias", from + ".bias", {out}, "outputs");
}

Result<std::vector<Recipe>> weights(const CheckpointConfig& c, const formats::TensorSource& source) {
  const Decoder d = TRY(decoder(c));
  const bool share = TRY(extra_bool(c, "use_shareqk", false));
  WeightMap map(source);
  map_embedding_and_head(map, d, "model.embed_tokens", "lm_head");
  for (int i = 0; i < d.layers; ++i) {
    const std::string to = layer_name(i), from = cat("model.layers.", i), attention = from + ".self_attn";
    map.norm(to + ".input_layernorm", from + ".input_layernorm", d.hidden, false);
    if (share) {
      map.linear(to + ".attention.qk", attention + ".qk_proj", d.hidden, d.hidden, false, "hidden_size, hidden_size");
      for (int64_t row : {0, 1})
        for (const char* kind : {"weight", "bias"}) {
          Recipe& r = map.copy(cat(to, ".attention.", row ? "k" : "q", "_affine.", kind), cat(attention, ".qk_", kind), {2, d.hidden}, "2, hidden_size");
          r.shape = {d.hidden};
          r.pieces[0].rows = {{row, 1}};
        }
    } else {
      map.add(interleaved_qk(to + ".attention", attention, d));
      map_convolution(map, to + ".attention.lf_gate.conv1", attention + ".lf_gate.conv1", d.hidden / 2, d.hidden);
      map_convolution(map, to + ".attention.lf_gate.conv2", attention + ".lf_gate.conv2", d.hidden, d.hidden / 2);
      map.norm(to + ".attention.lf_gate.output_layernorm", attention + ".lf_gate.output_layernorm", d.hidden, false);
    }
    map.linear(to + ".attention.v", attention + ".v_proj", d.hidden, d.hidden, false, "hidden_size, hidden_size");
    map.linear(to + ".attention.dense", attention + ".o_proj", d.hidden, d.hidden, false, "hidden_size, hidden_size");
    map.norm(to + ".post_layernorm", from + ".post_attention_layernorm", d.hidden, false);
    map_gated_mlp(map, d, to + ".mlp", from + ".mlp.up_proj", from + ".mlp.gate_proj", from + ".mlp.down_proj");
  }
  map.norm("transformer.ln_f", "model.norm", d.hidden, false);
  return map.take();
}

// Each convolution sees its input at the previous position (zero before the first) and at this one.
Value filter(Builder& b, const Decoder& d, Value h, const std::string& p) {
  const Value o1 = b.linear(b.concat(b.shift(h), h), p + ".conv1", d.hidden / 2, true);
  const Value o2 = b.linear(b.concat(b.shift(o1), o1), p + ".conv2", d.hidden, true);
  return b.rms_norm(b.add(o2, h), p + ".output_layernorm", d.eps);
}

Result<Graph> build(const CheckpointConfig& c) {
  const Decoder d = TRY(decoder(c));
  const bool share = TRY(extra_bool(c, "use_shareqk", false));
  Builder b;
  AttentionForm form;
  if (const int token = TRY(extra_int(c, "segment_end_token", -1)); token >= 0) form.segment_begin = b.segment_begin(token);
  Value x = b.embedding("transformer.vocab_embedding", b.tokens(), d.vocab, d.hidden);
  for (int i = 0; i < d.layers; ++i) {
    const std::string p = layer_name(i), a = p + ".attention";
    const Value h = b.rms_norm(x, p + ".input_layernorm", d.eps);
    Value q, k;
    if (share) {
      const Value qk = b.linear(h, a + ".qk", d.hidden);
      q = b.affine(qk, a + ".q_affine.weight", a + ".q_affine.bias");
      k = b.affine(qk, a + ".k_affine.weight", a + ".k_affine.bias");
    } else {
      const Value qk = b.linear(filter(b, d, h, a + ".lf_gate"), a + ".qk", 2 * d.hidden);
      q = b.slice(qk, 0, d.hidden);
      k = b.slice(qk, d.hidden, d.hidden);
    }
    x = b.add(x, attend(b, d, q, k, b.linear(h, a + ".v", d.hidden), a, form));
    x = b.named(b.add(x, gated_mlp(b, d, b.rms_norm(x, p + ".post_layernorm", d.eps), p + ".mlp")), cat("layer.", i));
  }
  return b.finish(head(b, d, b.rms_norm(x, "transformer.ln_f", d.eps)));
}

constexpr const char* kNames[] = {"YuanForCausalLM"};

}  // namespace

extern const Architecture kYuan;
const Architecture kYuan{"yuan", kNames, kNames, "", read_config, weights, build};

}  // namespace ingot::models
