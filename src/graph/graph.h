// The graph: what a model computes, as a list of ops in static single assignment over the op vocabulary. It says nothing about number
// formats, kernels, memory or devices; `build` decides those.
//
//   Builder b;
//   Value h = b.rms_norm(x, "transformer.ln_f", 1e-6);            // weight "transformer.ln_f.weight" of the unified checkpoint
//   Graph g = TRY(b.finish(b.linear(b.last_token(h), "lm_head", vocab)));
//
// Thread rule: values; build one graph from one thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "op/op.h"

namespace ingot::graph {

using op::Attrs;
using op::Op;
using op::Type;
using op::WeightShape;

// A value of the graph: index into Graph::values.
struct Value {
  int id = -1;
  bool valid() const { return id >= 0; }
  bool operator==(const Value&) const = default;
};

struct ValueInfo {
  std::string name;  // unique; printed as %name
  Type type;
};

// Rows [begin, begin + rows) (of every expert, where there are experts) of one tensor of the unified checkpoint.
struct WeightPart {
  std::string tensor;
  int64_t begin = 0, rows = 0;
  bool operator==(const WeightPart&) const = default;
};

// A weight: row ranges of checkpoint tensors one after the other (fusion concatenates), or a computed constant. A vector [n] of the
// checkpoint is [1, n] here and is always one whole part.
struct Weight {
  std::string name;                // unique; the tensor's name when it is one whole tensor
  WeightShape shape;
  std::vector<WeightPart> parts;   // empty: constant
  std::vector<float> constant;     // shape.n * shape.k values
};

struct Node {
  Op op{};
  Attrs attrs{};
  std::vector<Value> in, out;
  std::vector<int> weights;  // indices into Graph::weights
};

struct Graph {
  std::vector<ValueInfo> values;
  std::vector<Weight> weights;
  std::vector<Value> inputs;  // tokens, positions, prompt_length by these names: the fixed buffers of the ABI; others in tests only
  std::vector<Node> nodes;    // in an order that can be executed
  std::vector<Value> outputs; // of a model: one, the logits [R, V]

  const Type& type(Value v) const { return values[static_cast<size_t>(v.id)].type; }
  const std::string& name(Value v) const { return values[static_cast<size_t>(v.id)].name; }
  Value find(std::string_view name) const;      // invalid when there is none
  int find_weight(std::string_view name) const; // -1 when there is none
};

// Per-sequence resources that the ops of a graph need, by their attrs.layer.
std::vector<ingot_kv_layer> kv_layers(const Graph& g);
std::vector<int32_t> state_widths(const Graph& g);

// Every value defined once and before use, every type as the shape rule says, weights in range and complete, layer indices of KV and
// state each used by one op and without gaps, outputs defined. The error names the node by its first output.
Status verify(const Graph& g);

// Values without a reader (and nodes without a read output) go; ids are renumbered. Passes end with it.
void remove_dead(Graph& g);

// Makes graphs. Shapes are inferred while building; the first mistake is kept and returned by finish().
class Builder {
 public:
  // Fixed inputs, made on first use.
  Value tokens();
  Value positions();
  Value prompt_length();
  Value input(std::string_view name, Type type);

  Value embedding(std::string_view name, Value index, int64_t rows, int64_t width, double scale = 1, int offset = 0);
  Value linear(Value x, std::string_view name, int64_t out_features, bool bias = false);
  // A linear whose weight is another tensor (lm_head sharing the embedding table) and whose bias, if any, is named by itself.
  Value linear_of(Value x, std::string_view weight_tensor, int64_t out_features, std::string_view bias_tensor = {});
  Value rms_norm(Value x, std::string_view name, double eps, int group = 0);
  Value layer_norm(Value x, std::string_view name, double eps, bool bias = true);
  struct Rope {
    int head_dim = 0;
    int rotary_dim = 0;    // 0: head_dim
    int rotary_begin = 0;
    bool interleaved = false;
    int kind = INGOT_ROPE_TABLE;
    double base = 10000, factor = 1;  // of the computed kinds
    int original_positions = 0;
    double scale = 1;                 // on cos and sin
    std::vector<float> inv_freq;      // TABLE: rotary_dim / 2; LONG: twice that
  };
  Value rope(Value x, const Rope& rope);
  struct Attention {
    int heads = 0, kv_heads = 0, head_dim = 0;
    int v_head_dim = 0;            // 0: head_dim
    int window = 0;
    double scale = 0;              // 0: 1 / sqrt(head_dim)
    double softcap = 0;
    Value segment_begin;           // optional
    std::vector<float> alibi;      // slopes [heads], empty: none
  };
  // KV layer indices are handed out in order of the calls.
  Value attention(Value q, Value k, Value v, const Attention& a);
  Value add(Value a, Value b);
  Value mul(Value a, Value b);
  Value activation(Value x, int activation);
  Value gated(Value a, Value b, int activation);  // act(a) * b
  Value scale(Value x, double factor);
  Value softcap(Value x, double cap);
  Value logn_scale(Value q, int original_positions);
  Value shift(Value x);
  Value segment_begin(int token);
  Value slice(Value x, int begin, int width, int group = 0);
  Value concat(Value a, Value b, int a_group = 0, int b_width = 0);  // 0: whole rows
  Value last_token(Value x);
  Value affine(Value x, std::string_view weight_tensor, std::string_view bias_tensor = {});
  struct Route {
    int experts = 0, top_k = 0;
    bool normalize = false;
    int scoring = 0;
    int expert_groups = 0, top_groups = 0;
    double scale = 1;
    std::string correction_bias = {};  // tensor name, empty: none
  };
  std::pair<Value, Value> moe_route(Value logits, const Route& route);  // weights, ids
  // Rows of the stacked tensors: fc and gate [experts, ffn, E], proj [experts, E, ffn].
  Value moe_mlp(Value x, Value weights, Value ids, const WeightPart& fc, const WeightPart& gate, const WeightPart& proj, int activation,
                int experts, int top_k, int64_t ffn);
  // Any op: what the functions above are made of.
  std::vector<Value> apply(Op op, const Attrs& attrs, std::vector<Value> in, std::vector<int> weights);
  int weight(std::string_view tensor, WeightShape shape);
  int weight(std::string name, WeightShape shape, std::vector<WeightPart> parts);
  int constant(std::string_view name, WeightShape shape, std::vector<float> values);

  // Names the value in text, dumps and "first differing layer" reports.
  Value named(Value v, std::string name);
  const Type& type(Value v) const { return graph_.type(v); }
  Result<Graph> finish(Value output);
  Result<Graph> finish(std::vector<Value> outputs);

 private:
  Graph graph_;
  Status status_;
  int kv_layers_ = 0, states_ = 0;
};

// Text form. `%y = rms_norm %x weight="n" eps=1e-5`; see README.md. parse(print(g)) prints the same.
std::string print(const Graph& g);
Result<Graph> parse(std::string_view text, std::string_view what);

// A named rewrite. Returns how many places it changed.
struct Pass {
  const char* name;
  Result<int> (*run)(Graph& g);
};

struct PassOptions {
  std::vector<std::string> skip = {};        // names of passes; an unknown name is an error
  std::vector<std::string> dump_after = {};  // names, or "all"
  void (*dump)(void* user, const char* pass, const std::string& text) = nullptr;
  void* user = nullptr;
};
// Runs the passes in order and verifies after each; an error names the pass.
Status run_passes(Graph& g, std::span<const Pass> passes, const PassOptions& options = {});

}  // namespace ingot::graph
