// Each pass on graph text: where it fires (text and values under the reference interpreter) and where it must not.
#include "build/passes.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "graph/interpreter.h"

namespace ingot::build {
namespace {

using graph::Graph;
using graph::Interpreter;
using graph::Matrix;

Graph parsed(const std::string& text) {
  Result<Graph> g = graph::parse(text, "test");
  EXPECT_TRUE(g.ok()) << g.error().message();
  return g.ok() ? std::move(*g) : Graph();
}

const graph::Pass& pass(const std::string& name) {
  for (const graph::Pass& p : build_passes())
    if (name == p.name) return p;
  ADD_FAILURE() << name;
  return build_passes()[0];
}

// The rows of a tensor are a function of its name, so that joined weights have the values of their parts.
Result<std::vector<double>> values(const graph::Weight& w) {
  std::vector<double> v;
  for (const graph::WeightPart& p : w.parts) {
    const NormalTensor tensor(1, p.tensor, 0.1, 0.5);
    for (int64_t r = p.begin; r < p.begin + p.rows; ++r)
      for (int64_t k = 0; k < w.shape.k; ++k) v.push_back(tensor[static_cast<uint64_t>(r * w.shape.k + k)]);
  }
  v.insert(v.end(), w.constant.begin(), w.constant.end());
  return v;
}

std::vector<Matrix> outputs(const Graph& g, uint64_t seed) {
  auto interpreter = Interpreter::open(g, values);
  EXPECT_TRUE(interpreter.ok()) << interpreter.error().message();
  std::vector<Matrix> inputs;
  for (graph::Value v : g.inputs) {
    const op::Type& t = g.type(v);
    Matrix m(5, t.width);
    const NormalTensor random(seed, g.name(v), 0, 1);
    for (size_t i = 0; i < m.v.size(); ++i) m.v[i] = t.integer ? static_cast<double>(i) : random[i];
    inputs.push_back(std::move(m));
  }
  Result<std::vector<Matrix>> out = interpreter->run(inputs);
  EXPECT_TRUE(out.ok()) << out.error().message();
  return out.ok() ? std::move(*out) : std::vector<Matrix>();
}

void expect_rewrite(const char* name, const std::string& before, const std::string& after) {
  Graph g = parsed(before);
  const Graph original = g;
  Result<int> changed = pass(name).run(g);
  ASSERT_TRUE(changed.ok()) << changed.error().message();
  EXPECT_EQ(*changed, 1);
  ASSERT_TRUE(graph::verify(g).ok()) << graph::verify(g).error().message();
  EXPECT_EQ(graph::print(g), after);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<Matrix> a = outputs(original, seed), b = outputs(g, seed);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      double error = 0, power = 1e-300;
      ASSERT_EQ(a[i].v.size(), b[i].v.size());
      for (size_t k = 0; k < a[i].v.size(); ++k) {
        error += std::pow(a[i].v[k] - b[i].v[k], 2);
        power += std::pow(a[i].v[k], 2);
      }
      EXPECT_LE(error / power, 1e-12);
    }
  }
}

void expect_untouched(const char* name, const std::string& text) {
  Graph g = parsed(text);
  Result<int> changed = pass(name).run(g);
  ASSERT_TRUE(changed.ok()) << changed.error().message();
  EXPECT_EQ(*changed, 0) << graph::print(g);
  EXPECT_EQ(graph::print(g), graph::print(parsed(text)));
}

TEST(FuseQkv, JoinsProjectionsOfOneInput) {
  expect_rewrite("fuse_qkv",
                 "%x:[T,8] %positions:[T,1]i32 %prompt_length:[T,1]i32 = input\n"
                 "constant \"f\":[1,2] = 1 0.1\n"
                 "%q = linear %x weight=\"q\":[8,8]\n"
                 "%k = linear %x weight=\"k\":[4,8]\n"
                 "%v = linear %x weight=\"v\":[4,8]\n"
                 "%qr = rope %q %positions %prompt_length constant=\"f\" head_dim=4 rotary_dim=4 scale=1\n"
                 "%kr = rope %k %positions %prompt_length constant=\"f\" head_dim=4 rotary_dim=4 scale=1\n"
                 "%a = attention %qr %kr %v heads=2 kv_heads=1 head_dim=4 scale=0.5\n"
                 "output %a\n",
                 "%x:[T,8] %positions:[T,1]i32 %prompt_length:[T,1]i32 = input\n"
                 "constant \"f\":[1,2] = 1 0.1\n"
                 "%q+k+v = linear %x weight=\"q\"[0:8]+\"k\"[0:4]+\"v\"[0:4]:[16,8]\n"
                 "%q = slice %q+k+v width=8\n"
                 "%k = slice %q+k+v begin=8 width=4\n"
                 "%v = slice %q+k+v begin=12 width=4\n"
                 "%qr = rope %q %positions %prompt_length constant=\"f\" head_dim=4 rotary_dim=4 scale=1\n"
                 "%kr = rope %k %positions %prompt_length constant=\"f\" head_dim=4 rotary_dim=4 scale=1\n"
                 "%a = attention %qr %kr %v heads=2 kv_heads=1 head_dim=4 scale=0.5\n"
                 "output %a\n");
}

TEST(FuseQkv, LeavesOtherInputsAndBiasesAlone) {
  expect_untouched("fuse_qkv",
                   "%x:[T,8] %y:[T,8] %z:[T,8] = input\n"
                   "%q = linear %x weight=\"q\":[8,8]\n"
                   "%k = linear %y weight=\"k\":[8,8]\n"
                   "%v = linear %z weight=\"v\":[8,8]\n"
                   "%a = attention %q %k %v heads=2 kv_heads=2 head_dim=4 scale=0.5\n"
                   "output %a\n");
  expect_untouched("fuse_qkv",
                   "%x:[T,8] = input\n"
                   "%q = linear %x weight=\"q\":[8,8] weight=\"qb\":[1,8]\n"
                   "%k = linear %x weight=\"k\":[8,8] weight=\"kb\":[1,8]\n"
                   "%v = linear %x weight=\"v\":[8,8] weight=\"vb\":[1,8]\n"
                   "%a = attention %q %k %v heads=2 kv_heads=2 head_dim=4 scale=0.5\n"
                   "output %a\n");
}

TEST(FuseGateUp, MakesAGatedLinear) {
  expect_rewrite("fuse_gate_up",
                 "%x:[T,8] = input\n"
                 "%f = linear %x weight=\"fc\":[6,8]\n"
                 "%u = linear %x weight=\"up\":[6,8]\n"
                 "%h = gated %f %u activation=2\n"
                 "output %h\n",
                 "%x:[T,8] = input\n"
                 "%h = gated_linear %x weight=\"fc\"[0:6]+\"up\"[0:6]:[12,8] activation=2\n"
                 "output %h\n");
}

TEST(FuseGateUp, KeepsAHalfThatIsReadElsewhereOrHasABias) {
  expect_untouched("fuse_gate_up",
                   "%x:[T,8] = input\n%f = linear %x weight=\"fc\":[6,8]\n%u = linear %x weight=\"up\":[6,8]\n%h = gated %f %u\n%s = add %h %f\noutput %s\n");
  expect_untouched("fuse_gate_up",
                   "%x:[T,8] = input\n%f = linear %x weight=\"fc\":[6,8] weight=\"b\":[1,6]\n%u = linear %x weight=\"up\":[6,8]\n%h = gated %f %u\noutput %h\n");
  expect_untouched("fuse_gate_up",
                   "%x:[T,8] %y:[T,8] = input\n%f = linear %x weight=\"fc\":[6,8]\n%u = linear %y weight=\"up\":[6,8]\n%h = gated %f %u\noutput %h\n");
}

TEST(FuseAddNorm, MakesOneOpOfBoth) {
  expect_rewrite("fuse_add_norm",
                 "%x:[T,8] %r:[T,8] = input\n%s = add %x %r\n%z = scale %s scale=2\n%y = rms_norm %s weight=\"n\":[1,8] eps=1e-05\noutput %y %z\n",
                 "%x:[T,8] %r:[T,8] = input\n%y %s = add_rms_norm %x %r weight=\"n\":[1,8] eps=1e-05\n%z = scale %s scale=2\noutput %y %z\n");
}

TEST(FuseAddNorm, LeavesGroupsAndOtherNormsAlone) {
  expect_untouched("fuse_add_norm", "%x:[T,8] %r:[T,8] = input\n%s = add %x %r\n%y = rms_norm %s weight=\"n\":[1,4] eps=1e-05 group=4\noutput %y\n");
  expect_untouched("fuse_add_norm", "%x:[T,8] %r:[T,8] = input\n%s = add %x %r\n%y = layer_norm %s weight=\"n\":[1,8] eps=1e-05\noutput %y\n");
  expect_untouched("fuse_add_norm", "%x:[T,8] %r:[T,8] = input\n%s = mul %x %r\n%y = rms_norm %s weight=\"n\":[1,8] eps=1e-05\noutput %y\n");
}

TEST(EarlyLastToken, CutsRowsBeforeTheLastRowWiseOps) {
  expect_rewrite("early_last_token",
                 "%x:[T,8] %r:[T,8] = input\n"
                 "%d = linear %x weight=\"d\":[8,8]\n"
                 "%s = add %d %r\n"
                 "%y = rms_norm %s weight=\"n\":[1,8] eps=1e-05\n"
                 "%l = last_token %y\n"
                 "%o = linear %l weight=\"h\":[5,8]\n"
                 "output %o\n",
                 "%x:[T,8] %r:[T,8] = input\n"
                 "%x.last = last_token %x\n"
                 "%d = linear %x.last weight=\"d\":[8,8]\n"
                 "%r.last = last_token %r\n"
                 "%s = add %d %r.last\n"
                 "%l = rms_norm %s weight=\"n\":[1,8] eps=1e-05\n"
                 "%o = linear %l weight=\"h\":[5,8]\n"
                 "output %o\n");
}

TEST(EarlyLastToken, StaysBehindAttentionAndValuesReadElsewhere) {
  expect_untouched("early_last_token",
                   "%q:[T,8] = input\n%a = attention %q %q %q heads=2 kv_heads=2 head_dim=4 scale=0.5\n%l = last_token %a\noutput %l\n");
  expect_untouched("early_last_token", "%x:[T,8] = input\n%y = scale %x scale=2\n%l = last_token %y\noutput %l %y\n");
}

}  // namespace
}  // namespace ingot::build
