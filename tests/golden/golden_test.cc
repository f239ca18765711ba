// Every fixture below tests/golden: published form -> convert -> unified checkpoint -> graph -> reference interpreter, compared with what
// the reference computed. A failure names the first differing layer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/files.h"
#include "base/test_folder.h"
#include "checkpoint/checkpoint.h"
#include "convert/convert.h"
#include "convert/published.h"
#include "fixture.h"
#include "graph/interpreter.h"
#include "models/architecture.h"
#include "tensor/convert.h"

namespace ingot::golden {
namespace {

constexpr double kNmse = 1e-10;  // issue bar for float32 logits; the interpreter's own error is far below

using graph::Interpreter;

// The parts of a graph weight from a source of unified tensors.
graph::WeightSource weights_of(const formats::TensorSource& source) {
  return [&source](const graph::Weight& w) -> Result<std::vector<double>> {
    std::vector<double> out;
    const int64_t experts = std::max<int64_t>(w.shape.experts, 1);
    for (int64_t e = 0; e < experts; ++e)
      for (const graph::WeightPart& part : w.parts) {
        const View view = TRY(source.find(part.tensor));
        std::vector<float> values(static_cast<size_t>(view.shape.elements()));
        TRY(to_float(view, values));
        const int64_t rows = view.shape.elements() / w.shape.k / experts;
        if (part.begin + part.rows > rows)
          return Error(Code::kInvalidArgument, cat("tensor '", part.tensor, "' is ", str(view.shape), ", want rows up to ", part.begin + part.rows));
        const auto first = values.begin() + (e * rows + part.begin) * w.shape.k;
        out.insert(out.end(), first, first + part.rows * w.shape.k);
      }
    return out;
  };
}

int argmax(std::span<const double> v) { return static_cast<int>(std::max_element(v.begin(), v.end()) - v.begin()); }

class Golden : public testing::Test {
 public:
  explicit Golden(std::string directory, DType stored) : directory_(std::move(directory)), stored_(stored) {}

  void TestBody() override {
    const Status s = body();
    if (!s) ADD_FAILURE() << s.error().message();
  }

 private:
  std::string directory_;
  DType stored_;

  Status body() {
    const Fixture f = TRY(read_fixture(directory_));
    TestFolder scratch;
    convert::ConvertOptions o;
    // A fixture may bring its weights in another form, where the generator's rounding to bf16 has no meaning.
    for (const char* other : {"model.gguf", "consolidated"})
      if (file_exists(join_path(directory_, other))) o.model_dir = join_path(directory_, other);
    if (o.model_dir.empty()) TRY(write_published(f, scratch.at("published"), stored_));
    if (!o.model_dir.empty() && stored_ == DType::kBf16) return {};
    if (o.model_dir.empty()) o.model_dir = scratch.at("published");
    o.output_dir = scratch.at("unified");
    o.dtype = "float32";
    o.model_version = f.model_version;
    TRY(convert::convert(o));
    const checkpoint::Checkpoint ckpt = TRY(checkpoint::Checkpoint::open(o.output_dir));
    TRY(stream_equals(o, ckpt));
    const graph::Graph g = TRY(models::build_graph(ckpt.config()));
    const Result<graph::Graph> again = graph::parse(graph::print(g), "printed graph");
    if (!again) return again.error();
    EXPECT_EQ(graph::print(*again), graph::print(g));
    const Interpreter run = TRY(Interpreter::open(g, weights_of(ckpt.rank(0))));
    for (size_t i = 0; i < f.prompts.size(); ++i) {
      if (stored_ == DType::kBf16) TRY(check_bf16(run, f.prompts[i], i));
      else TRY(check(g, run, f.prompts[i], i));
      if (HasFailure()) return {};
    }
    return {};
  }

  // The tensors that `build` reads without a checkpoint in between are the same.
  static Status stream_equals(const convert::ConvertOptions& o, const checkpoint::Checkpoint& ckpt) {
    auto stream = TRY(convert::PublishedCheckpoint::open(o.model_dir, {.dtype = o.dtype, .model_version = o.model_version}));
    for (const formats::TensorInfo& t : stream->list()) {
      const View a = TRY(stream->find(t.name)), b = TRY(ckpt.rank(0).find(t.name));
      EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())) << t.name;
      stream->forget(t.name);
    }
    EXPECT_EQ(stream->list().size(), ckpt.rank(0).list().size());
    return {};
  }

  // In chunks of `chunk`; the last row's logits.
  static Result<std::vector<double>> prefill(const Interpreter& run, Interpreter::Session& s, std::span<const int32_t> ids, size_t chunk) {
    std::vector<double> logits;
    for (size_t at = 0; at < ids.size(); at += chunk) {
      op::Matrix m = TRY(run.step(s, ids.subspan(at, std::min(chunk, ids.size() - at))));
      logits = std::move(m.v);
    }
    return logits;
  }

  Status check(const graph::Graph& g, const Interpreter& run, const Prompt& p, size_t index) {
    Interpreter::Session s;
    s.prompt_length = static_cast<int>(p.ids.size());
    // Hidden states of the whole prompt in one chunk.
    std::string first_difference;
    const auto visit = [&](graph::Value v, const op::Matrix& m) {
      const std::string& name = g.name(v);
      if (!first_difference.empty() || name.rfind("layer.", 0) != 0) return;
      const size_t layer = static_cast<size_t>(std::atoi(name.c_str() + 6));
      if (layer >= p.hidden.size()) return;
      std::vector<double> found;
      for (int position : p.positions) found.insert(found.end(), m.row(position), m.row(position) + m.width);
      if (const double e = nmse(found, p.hidden[layer]); !(e <= kNmse)) first_difference = cat("layer ", layer, ", nmse ", e);
    };
    const op::Matrix whole = TRY(run.step(s, p.ids, false, visit));
    EXPECT_EQ(first_difference, "") << "prompt " << index << ": the first differing layer";
    EXPECT_LE(nmse(whole.v, p.logits), kNmse) << "prompt " << index << ": logits";
    if (testing::Test::HasFailure()) return {};

    Interpreter::Session chunks;
    chunks.prompt_length = s.prompt_length;
    std::vector<double> logits = TRY(prefill(run, chunks, p.ids, 3));
    EXPECT_EQ(logits, whole.v) << "prompt " << index << ": chunks of 3 give other logits than one chunk";

    std::vector<int32_t> greedy = {argmax(logits)};
    while (greedy.size() < p.greedy.size()) {
      op::Matrix m = TRY(run.step(chunks, std::span(&greedy.back(), 1)));
      logits = std::move(m.v);
      greedy.push_back(argmax(logits));
    }
    EXPECT_EQ(greedy, p.greedy) << "prompt " << index;
    if (!p.growing_rope) {
      EXPECT_LE(nmse(logits, p.last_logits), kNmse) << "prompt " << index << ": logits after 31 decoded tokens";
    }
    return {};
  }

  static Status check_bf16(const Interpreter& run, const Prompt& p, size_t index) {
    Interpreter::Session s;
    s.prompt_length = static_cast<int>(p.ids.size());
    const std::vector<double> logits = TRY(prefill(run, s, p.ids, p.ids.size()));
    EXPECT_LE(nmse(logits, p.bf16_logits), kNmse) << "prompt " << index << ": logits of weights rounded to bf16";
    return {};
  }
};

void register_tests(const std::string& root) {
  Result<std::vector<std::string>> names = list_directory(root);
  CHECK(names.ok(), root);
  for (const std::string& name : *names) {
    const std::string directory = join_path(root, name);
    // A model family's fixture has both files (demo and sampling are other kinds).
    if (!file_exists(join_path(directory, "fixture.json")) || !file_exists(join_path(directory, "config.json"))) continue;
    testing::RegisterTest("Golden", name.c_str(), nullptr, nullptr, __FILE__, __LINE__, [=] { return new Golden(directory, DType::kF32); });
    testing::RegisterTest("GoldenBf16", name.c_str(), nullptr, nullptr, __FILE__, __LINE__, [=] { return new Golden(directory, DType::kBf16); });
  }
}

}  // namespace
}  // namespace ingot::golden

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  ingot::golden::register_tests(argc > 1 ? argv[1] : INGOT_SOURCE_DIR "/tests/golden");  // or any folder of fixtures
  return RUN_ALL_TESTS();
}
