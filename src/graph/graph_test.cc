#include "graph/graph.h"

#include <gtest/gtest.h>

#include "graph/interpreter.h"

namespace ingot::graph {
namespace {

constexpr const char* kText =
    "%tokens:[T,1]i32 %positions:[T,1]i32 %prompt_length:[T,1]i32 = input\n"
    "constant \"inv_freq\":[1,2] = 1 0.1\n"
    "%x = embedding %tokens weight=\"e.weight\":[7,12] scale=1\n"
    "%h = rms_norm %x weight=\"n.weight\":[1,12] eps=1e-05\n"
    "%qkv = linear %h weight=\"qkv.weight\":[16,12]\n"
    "%q = slice %qkv width=8\n"
    "%k = slice %qkv begin=8 width=4\n"
    "%v = slice %qkv begin=12 width=4\n"
    "%qr = rope %q %positions %prompt_length constant=\"inv_freq\" head_dim=4 rotary_dim=4 scale=1\n"
    "%kr = rope %k %positions %prompt_length constant=\"inv_freq\" head_dim=4 rotary_dim=4 scale=1\n"
    "%a = attention %qr %kr %v heads=2 kv_heads=1 head_dim=4 scale=0.5\n"
    "%s = shift %a\n"
    "%j = concat %a %s width=8\n"
    "%l = last_token %j\n"
    "%o = linear %l weight=\"head\"=\"a.weight\"[2:5]+\"b.weight\"[0:2]:[5,16] weight=\"bias\":[1,5]\n"
    "output %o\n";

Result<std::vector<double>> weights(const Weight& w) {
  std::vector<double> v(static_cast<size_t>(w.shape.n * w.shape.k));
  unsigned seed = static_cast<unsigned>(w.name.size()) + 7;
  for (double& e : v) e = ((seed = seed * 1664525u + 1013904223u) >> 8) / double(1 << 23) - 1;
  return v;
}

TEST(Graph, TextRoundTrip) {
  Result<Graph> g = parse(kText, "text");
  ASSERT_TRUE(g.ok()) << g.error().message();
  EXPECT_EQ(print(*g), kText);
  EXPECT_EQ(kv_layers(*g).size(), 1u);
  EXPECT_EQ(state_widths(*g), std::vector<int32_t>{8});
}

TEST(Graph, ImpliedWeightShape) {
  Result<Graph> g = parse("%x:[T,64] %r:[T,64] = input\n%y %s = add_rms_norm %x %r weight=\"n\" eps=1e-5\noutput %y %s\n", "t");
  ASSERT_TRUE(g.ok()) << g.error().message();
  EXPECT_EQ(g->weights[0].shape, (WeightShape{0, 1, 64}));
}

TEST(Graph, ErrorsNameThePlace) {
  const auto message = [](const char* text) {
    Result<Graph> g = parse(text, "t");
    return g.ok() ? std::string("accepted") : g.error().message();
  };
  EXPECT_EQ(message("%x:[T,4] = input\n%y = add %x %z\n"), "t:2: found 'z', want a value that is defined above");
  EXPECT_EQ(message("%x:[T,4] = input\n%y = linear %x weight=\"w\":[3,5]\noutput %y\n"),
            "t:2: linear: weight 0 is [3, 5], want [3, 4] (as deep as the input is wide)");
  EXPECT_EQ(message("%x:[T,4] = input\n%y = scale %x\noutput %y\n"), "t:2: scale: scale is 0, want a finite number other than 0");
  EXPECT_EQ(message("%x:[T,4] = input\n%y = add %x %x eps=1\n"), "t:2: add has no attribute 'eps', it has: ");
  EXPECT_EQ(message("%x:[T,4] = input\n%y = shift %x layer=1\noutput %y\n"),
            "t: graph: state 0 is not used, but 1 is (by shift %y)");
  EXPECT_EQ(message("%x:[T,4] = input\n"), "t: graph: there is no output");
  EXPECT_EQ(message("%x:[T,"), "t:1: found the end of the line, want an integer");
}

TEST(Graph, BuilderKeepsTheFirstError) {
  Builder b;
  const Value x = b.embedding("e", b.tokens(), 7, 12);
  const Value y = b.add(x, b.linear(x, "w", 5));
  Result<Graph> g = b.finish(b.linear(y, "z", 3));
  ASSERT_FALSE(g.ok());
  EXPECT_EQ(g.error().message(), "graph: node 2: add: input 1 is [T, 5], want [T, 12] (as input 0)");
}

TEST(Graph, RemoveDeadKeepsWhatIsRead) {
  Result<Graph> g = parse("%x:[T,4] = input\n%y = scale %x scale=2\n%z = linear %x weight=\"w\":[3,4]\noutput %y\n", "t");
  ASSERT_TRUE(g.ok());
  remove_dead(*g);
  EXPECT_EQ(print(*g), "%x:[T,4] = input\n%y = scale %x scale=2\noutput %y\n");
  EXPECT_TRUE(g->weights.empty());
}

TEST(Graph, PassesVerifyAndSkip) {
  Graph g = *parse("%x:[T,4] = input\n%y = scale %x scale=2\noutput %y\n", "t");
  const Pass passes[] = {{"breaks", [](Graph& broken) -> Result<int> {
                            broken.nodes[0].attrs.scale = 0;
                            return 1;
                          }}};
  Status s = run_passes(g, passes, {.skip = {"breaks"}});
  EXPECT_TRUE(s.ok());
  s = run_passes(g, passes, {.skip = {"none"}});
  EXPECT_EQ(s.error().message(), "skip-pass: there is no pass 'none', want one of breaks");
  s = run_passes(g, passes, {});
  EXPECT_EQ(s.error().message(), "after pass breaks: graph: scale %y: scale: scale is 0, want a finite number other than 0");
}

// KV, shift state and positions carry over: any chunking gives the same numbers.
TEST(Interpreter, ChunksEqualOneStep) {
  const Graph g = *parse(kText, "t");
  const Interpreter run = *Interpreter::open(g, weights);
  const std::vector<int32_t> ids = {1, 5, 2, 6, 0};
  Interpreter::Session whole{{}, 0, 5}, chunks{{}, 0, 5};
  const Matrix want = *run.step(whole, ids, true);
  std::vector<double> got;
  for (size_t at = 0; at < ids.size(); at += 2) {
    const size_t n = std::min<size_t>(2, ids.size() - at);
    const Matrix part = *run.step(chunks, std::span(ids).subspan(at, n), true);
    got.insert(got.end(), part.v.begin(), part.v.end());
  }
  EXPECT_EQ(got, want.v);
  EXPECT_EQ(run.step(chunks, std::vector<int32_t>{7}).error().message(), "index 7 is outside of table 'e.weight' with 7 rows");
}

TEST(Interpreter, FusedOpsEqualTheirExpansion) {
  const char* texts[][2] = {
      {"%x:[T,8] %r:[T,8] = input\n%y %s = add_rms_norm %x %r weight=\"n\" eps=1e-5\noutput %y %s\n",
       "%x:[T,8] %r:[T,8] = input\n%s = add %x %r\n%y = rms_norm %s weight=\"n\" eps=1e-5\noutput %y %s\n"},
      {"%x:[T,8] = input\n%y = gated_linear %x weight=\"w\":[6,8] activation=1\noutput %y\n",
       "%x:[T,8] = input\n%b = linear %x weight=\"w\":[6,8]\n%p = slice %b width=3\n%q = slice %b begin=3 width=3\n"
       "%y = gated %p %q activation=1\noutput %y\n"}};
  for (const auto& pair : texts) {
    const Graph fused = *parse(pair[0], "fused"), core = *parse(pair[1], "core");
    std::vector<Matrix> in;
    for (size_t i = 0; i < fused.inputs.size(); ++i) {
      Matrix m(3, 8);
      for (size_t e = 0; e < m.v.size(); ++e) m.v[e] = static_cast<double>((e * 7 + i) % 11) - 5;
      in.push_back(m);
    }
    const auto a = *(*Interpreter::open(fused, weights)).run(in), b = *(*Interpreter::open(core, weights)).run(in);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].v, b[i].v);
    // expand() names the same ops in the same order.
    std::vector<op::WeightShape> shapes;
    for (int w : fused.nodes[0].weights) shapes.push_back(fused.weights[static_cast<size_t>(w)].shape);
    const auto steps = op::expand(fused.nodes[0].op, fused.nodes[0].attrs, shapes);
    ASSERT_EQ(steps.size(), core.nodes.size());
    for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i].op, core.nodes[i].op);
  }
}

}  // namespace
}  // namespace ingot::graph
