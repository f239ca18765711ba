// Every fixture, several sequences at once: all prompts in one step, and a prompt whose first pages (and state) another sequence computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "base/files.h"
#include "base/test_folder.h"
#include "build/build.h"
#include "convert/published.h"
#include "cpu/cpu.h"
#include "fixture.h"
#include "runtime/runtime.h"

namespace ingot::golden {
namespace {

using runtime::Runtime;
using sched::PageId;
using sched::StepPlan;

constexpr double kNmseF32 = 1e-10;  // f32 weights and arithmetic against float64
constexpr int kPageTokens = 16;

const ingot_device_api* const kLinked[] = {cpu::cpu_device_api()};

double distance(std::span<const float> found, std::span<const float> want) {
  return nmse(std::vector<double>(found.begin(), found.end()), want);
}

// One slice of a sequence whose pages are given; the logits of its last position are returned.
sched::Slice slice(const Prompt& p, int seq, int begin, int end, std::span<const PageId> pages, bool state) {
  sched::Slice s;
  s.seq = sched::SeqId{seq};
  s.slot = sched::SlotId{seq};
  s.begin = begin;
  s.end = end;
  s.prompt_tokens = static_cast<int>(p.ids.size());
  s.rope_regime = s.prompt_tokens;
  s.logits_begin = end - 1;
  s.return_logits = true;
  s.tokens = std::span(p.ids).first(static_cast<size_t>(end));
  s.pages = pages;
  if (state) s.state = sched::StateId{seq};
  return s;
}

std::vector<PageId> pages_of(int first, int tokens) {
  std::vector<PageId> out;
  for (int i = 0; i * kPageTokens < tokens; ++i) out.push_back(PageId{first + i});
  return out;
}

class GoldenBatch : public testing::Test {
 public:
  explicit GoldenBatch(std::string directory) : directory_(std::move(directory)) {}

  void TestBody() override {
    const Status s = body();
    if (!s) ADD_FAILURE() << s.error().message();
  }

 private:
  std::string directory_;

  Status body() {
    const Fixture f = TRY(read_fixture(directory_));
    TestFolder scratch;
    TRY(write_published(f, scratch.at("published"), DType::kF32));
    auto published = TRY(convert::PublishedCheckpoint::open(scratch.at("published"), {.dtype = "float32", .model_version = f.model_version}));
    auto device = TRY(device::open_device("cpu", {.linked = kLinked, .options_json = R"({"threads": 1, "activations": "exact"})"}));
    build::BuildOptions b;
    b.no_timing = true;
    b.max_seq_len = 256;
    b.max_batch_size = 8;
    b.tokens_per_block = kPageTokens;
    TRY(build::build_engine({.config = published->config(), .tensors = published.get()}, b, *device, scratch.at("engine")));
    runtime::RuntimeOptions r;
    r.threads = 1;
    r.activations = "exact";
    r.kv_cache_dtype = "float32";
    r.max_tokens_in_paged_kv_cache = 512;
    auto rt = TRY(Runtime::load(scratch.at("engine"), r, kLinked));
    TRY(together(*rt, f));
    return prefix_hit(*rt, f);
  }

  static Result<sched::StepResult> step(Runtime& rt, const StepPlan& plan) {
    sched::StepResult result;
    TRY(rt.wait(TRY(rt.launch(plan)), result));
    return result;
  }

  // All prompts, of different lengths, in one step.
  static Status together(Runtime& rt, const Fixture& f) {
    StepPlan plan;
    plan.id = sched::StepId{0};
    std::vector<std::vector<PageId>> pages;
    int page = 0;
    for (const Prompt& p : f.prompts) {
      pages.push_back(pages_of(page, static_cast<int>(p.ids.size())));
      page += static_cast<int>(pages.back().size());
    }
    for (size_t i = 0; i < f.prompts.size(); ++i) {
      const Prompt& p = f.prompts[i];
      plan.slices.push_back(slice(p, static_cast<int>(i), 0, static_cast<int>(p.ids.size()), pages[i], rt.has_state()));
      plan.tokens += static_cast<int>(p.ids.size());
    }
    const sched::StepResult result = TRY(step(rt, plan));
    const size_t vocab = static_cast<size_t>(rt.vocab_size());
    if (result.logits.size() != f.prompts.size() * vocab) return Error(Code::kInternal, cat(result.logits.size(), " logits came back"));
    for (size_t i = 0; i < f.prompts.size(); ++i)
      EXPECT_LE(distance(std::span(result.logits).subspan(i * vocab, vocab), f.prompts[i].logits), kNmseF32) << "prompt " << i << ": in one batch";
    return {};
  }

  // Sequence 1 takes the full pages (and the state at their end) that sequence 0 computed, and computes only the rest.
  static Status prefix_hit(Runtime& rt, const Fixture& f) {
    const Prompt& p = *std::max_element(f.prompts.begin(), f.prompts.end(), [](const Prompt& a, const Prompt& b) { return a.ids.size() < b.ids.size(); });
    const int n = static_cast<int>(p.ids.size()), shared = (n - 1) / kPageTokens * kPageTokens;
    if (shared == 0) return Error(Code::kInternal, cat("the longest prompt has ", n, " tokens, want more than a page"));
    std::vector<PageId> first = pages_of(0, n), second = first;
    for (size_t i = static_cast<size_t>(shared / kPageTokens); i < second.size(); ++i) second[i] = PageId{static_cast<int>(first.size() + i)};
    StepPlan a;
    a.id = sched::StepId{1};
    a.slices.push_back(slice(p, 0, 0, shared, std::span(first).first(static_cast<size_t>(shared / kPageTokens)), rt.has_state()));
    a.tokens = shared;
    TRY(step(rt, a));
    StepPlan b;
    b.id = sched::StepId{2};
    if (rt.has_state()) b.state_loads.push_back({sched::StateId{0}, sched::StateId{1}});
    b.slices.push_back(slice(p, 1, shared, n, second, rt.has_state()));
    b.tokens = n - shared;
    const sched::StepResult result = TRY(step(rt, b));
    EXPECT_LE(distance(result.logits, p.logits), kNmseF32) << "after a prefix hit of " << shared << " tokens";
    return {};
  }
};

void register_tests() {
  const std::string root = INGOT_SOURCE_DIR "/tests/golden";
  Result<std::vector<std::string>> names = list_directory(root);
  CHECK(names.ok(), root);
  for (const std::string& name : *names) {
    const std::string directory = join_path(root, name);
    if (!file_exists(join_path(directory, "fixture.json")) || !file_exists(join_path(directory, "config.json"))) continue;
    testing::RegisterTest("GoldenBatch", name.c_str(), nullptr, nullptr, __FILE__, __LINE__, [=] { return new GoldenBatch(directory); });
  }
}

}  // namespace
}  // namespace ingot::golden

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  ingot::golden::register_tests();
  return RUN_ALL_TESTS();
}
