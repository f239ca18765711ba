#include "runtime/runtime.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "device/fake.h"
#include "plan/hash.h"

namespace ingot::runtime {
namespace {

using device::FakeDevice;
using op::Op;
using plan::Plan;
using sched::Token;

constexpr int kVocab = 97;

// embedding -> gated_linear -> attention -> last_token -> lm_head; 8 wide. The gated weight is packed as row `packing`.
std::string write_engine(const char* packing, bool state = false) {
  Plan p;
  p.device_kind = "fake";
  p.device_id = "fake-0";
  p.device_name = "Elder fake";
  p.vocab_size = kVocab;
  p.hidden_size = 8;
  p.page_tokens = 16;
  p.max_positions = 4096;
  p.limits = {.max_batch_size = 4, .max_input_len = 64, .max_seq_len = 128, .max_num_tokens = 32, .max_beam_width = 1};
  p.kv_layers = {{1, 8, 0, 0}};
  p.buffers = plan::fixed_buffers(kVocab);
  p.buffers.push_back({"x", DType::kF32, 8, INGOT_ROWS_TOKENS, 0});     // 4
  p.buffers.push_back({"h", DType::kF32, 8, INGOT_ROWS_TOKENS, 1});     // 5
  p.buffers.push_back({"a", DType::kF32, 8, INGOT_ROWS_TOKENS, 0});     // 6
  p.buffers.push_back({"last", DType::kF32, 8, INGOT_ROWS_LOGITS, 1});  // 7
  if (state) {
    p.state_widths = {8};
    p.buffers.push_back({"shifted", DType::kF32, 8, INGOT_ROWS_TOKENS, 2});  // 8
  }
  auto desc = [](int64_t n, int64_t k) { return op::WeightDesc{static_cast<int>(DType::kF32), 0, 0, 0, n, k}; };
  p.weights.push_back({.name = "embedding", .desc = desc(kVocab, 8), .packings = {"fake.plain"}});
  p.weights.push_back({.name = "gated", .desc = desc(16, 8), .packings = {packing}, .raw = false});
  p.weights.push_back({.name = "head", .desc = desc(kVocab, 8), .generator = plan::Generator{7, 0, 0.02}});
  auto whole = [&](int32_t b) { return ingot_operand{b, 0, p.buffers[static_cast<size_t>(b)].width, p.buffers[static_cast<size_t>(b)].width}; };
  auto step = [&](Op o, std::vector<int32_t> in, int32_t out, std::vector<int32_t> weights, const char* tactic) {
    plan::Step s{.op = o, .attrs = {}, .in = {}, .out = {whole(out)}, .weights = std::move(weights), .tactic = tactic};
    for (int32_t b : in) s.in.push_back(whole(b));
    p.steps.push_back(s);
    return &p.steps.back();
  };
  step(Op::kEmbedding, {0}, 4, {0}, "fake.plain")->attrs.scale = 1;
  step(Op::kGatedLinear, {4}, 5, {1}, packing);
  if (state) step(Op::kShift, {5}, 8, {}, "fake.plain");
  plan::Step* a = step(Op::kAttention, {5, 5, 5}, 6, {}, "fake.plain");
  a->attrs.heads = a->attrs.kv_heads = 1;
  a->attrs.head_dim = 8;
  a->attrs.scale = 0.35;
  step(Op::kLastToken, {6}, 7, {}, "fake.plain");
  step(Op::kLinear, {7}, INGOT_BUF_LOGITS, {2}, "fake.tail");
  const std::string path = cat(testing::TempDir(), "/runtime_", packing, state, ".engine");
  plan::PlanWriter w = plan::PlanWriter::create(path).value();
  for (plan::Weight& row : p.weights) {
    if (row.generator) continue;
    std::vector<std::byte> bytes(op::raw_sizes(row.desc).total() + (row.packings[0] == "fake.tail" ? 64 : 0));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 11 + 3);
    const plan::PlacedBytes at = w.append_weight(bytes).value();
    row.offset = at.offset;
    row.bytes = at.bytes;
    row.hash = at.hash;
  }
  EXPECT_TRUE(w.section(plan::kTokenizerSection, "sealed").ok());
  const Status s = w.finish(p);
  EXPECT_TRUE(s.ok()) << s.error().message();
  return path;
}

struct Loaded {
  FakeDevice fake;
  const ingot_device_api* linked[1] = {fake.api()};
  std::unique_ptr<Runtime> runtime;
  Result<std::unique_ptr<Runtime>> load(const std::string& path, RuntimeOptions o = {}) {
    o.device = "fake";
    return Runtime::load(path, o, linked);
  }
  Runtime& operator()(const std::string& path, RuntimeOptions o = {}) {
    auto r = load(path, o);
    EXPECT_TRUE(r.ok()) << r.error().message();
    runtime = std::move(*r);
    return *runtime;
  }
};

// One sequence as the scheduler would describe it.
struct Sequence {
  std::vector<Token> tokens;
  int prompt = 0;
  int slot = 0;
  std::vector<sched::PageId> pages;
  sched::SamplingParams params;
  Sequence(std::vector<Token> ids, int slot_, std::vector<int> page_ids) : tokens(std::move(ids)), prompt(static_cast<int>(tokens.size())), slot(slot_) {
    for (int p : page_ids) pages.push_back(static_cast<sched::PageId>(p));
  }
};

void add(sched::StepPlan& plan, Sequence& s, int begin, int end, bool sample) {
  sched::Slice slice;
  slice.slot = static_cast<sched::SlotId>(s.slot);
  slice.begin = begin;
  slice.end = end;
  slice.prompt_tokens = s.prompt;
  slice.logits_begin = sample ? end - 1 : end;
  slice.tokens = s.tokens;
  slice.pages = s.pages;
  slice.state = static_cast<sched::StateId>(s.slot);
  plan.slices.push_back(slice);
  if (!sample) return;
  sched::Sample x;
  x.slice = static_cast<int>(plan.slices.size()) - 1;
  x.position = end - 1;
  x.slot = slice.slot;
  x.params = &s.params;
  plan.samples.push_back(x);
}

int expect_after(std::vector<Token> tokens) { return FakeDevice::expected_id(tokens, kVocab); }

TEST(Runtime, GeneratesGreedilyInChunks) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  std::vector<Token> prompt(70);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<Token>(i);
  const std::vector<Token> ids = rt.generate_greedy(prompt, 5).value();
  std::vector<Token> context = prompt;
  for (Token id : ids) {
    EXPECT_EQ(id, expect_after(context));
    context.push_back(id);
  }
  EXPECT_EQ(l.fake.count("run"), 3 + 4);  // 32 + 32 + 6 tokens, then one at a time
  EXPECT_EQ(rt.section(plan::kTokenizerSection), "sealed");
  EXPECT_EQ(rt.generate_greedy(std::vector<Token>(200), 1).error().message(), "a sequence of 200 tokens is longer than max-seq-len, 128");
}

TEST(Runtime, TwoStepsInFlightFeedBackIds) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  Sequence a({5, 6, 7}, 0, {2, 4}), b({9}, 1, {3});
  sched::StepPlan first, second, third;
  add(first, a, 0, 3, true);
  add(first, b, 0, 1, true);
  const sched::Ticket t1 = rt.launch(first).value();
  a.tokens.push_back(sched::kSampledInFlight);
  b.tokens.push_back(sched::kSampledInFlight);
  add(second, b, 1, 2, true);  // another order than before: rows are found by slot
  add(second, a, 3, 4, true);
  const sched::Ticket t2 = rt.launch(second).value();
  sched::StepResult r;
  ASSERT_TRUE(rt.wait(t1, r).ok());
  const Token a1 = expect_after({5, 6, 7}), b1 = expect_after({9});
  EXPECT_EQ(r.ids, (std::vector<Token>{a1, b1}));
  EXPECT_EQ(r.offsets, (std::vector<int>{0, 1, 2}));
  // The engine may launch a third step before it has committed the second.
  a.tokens = {5, 6, 7, a1, sched::kSampledInFlight};
  add(third, a, 4, 5, true);
  const sched::Ticket t3 = rt.launch(third).value();
  ASSERT_TRUE(rt.wait(t2, r).ok());
  const Token b2 = expect_after({9, b1}), a2 = expect_after({5, 6, 7, a1});
  EXPECT_EQ(r.ids, (std::vector<Token>{b2, a2}));
  ASSERT_TRUE(rt.wait(t3, r).ok());
  EXPECT_EQ(r.ids, (std::vector<Token>{expect_after({5, 6, 7, a1, a2})}));
  // An id that was waited for after its plan was made is known by now.
  b.tokens = {9, b1, sched::kSampledInFlight};
  sched::StepPlan fourth;
  add(fourth, b, 2, 3, true);
  ASSERT_TRUE(rt.wait(rt.launch(fourth).value(), r).ok());
  EXPECT_EQ(r.ids, (std::vector<Token>{expect_after({9, b1, b2})}));
}

TEST(Runtime, BadWordsWaitForTheIdInFlight) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  Sequence a({5, 6, 7}, 0, {2});
  a.params.bad_words = {{1, 2}};
  sched::StepPlan first, second;
  add(first, a, 0, 3, true);
  const sched::Ticket t1 = rt.launch(first).value();
  a.tokens.push_back(sched::kSampledInFlight);
  add(second, a, 3, 4, true);
  const sched::Ticket t2 = rt.launch(second).value();
  EXPECT_EQ(l.fake.count("wait"), 1);  // the first step's, before its ticket was asked for
  sched::StepResult r;
  ASSERT_TRUE(rt.wait(t1, r).ok());
  const Token a1 = expect_after({5, 6, 7});
  EXPECT_EQ(r.ids, (std::vector<Token>{a1}));
  ASSERT_TRUE(rt.wait(t2, r).ok());
  EXPECT_EQ(r.ids, (std::vector<Token>{expect_after({5, 6, 7, a1})}));
}

TEST(Runtime, VerifiesGuesses) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  const Token x = expect_after({5}), y = expect_after({5, x});
  Sequence a({5, x, y, 96, 3}, 0, {1});
  a.prompt = 1;
  sched::StepPlan plan;
  add(plan, a, 0, 5, false);
  sched::Sample s;
  s.position = 0;
  s.drafts = 4;
  s.slot = static_cast<sched::SlotId>(0);
  s.params = &a.params;
  plan.samples.push_back(s);
  sched::StepResult r;
  ASSERT_TRUE(rt.wait(rt.launch(plan).value(), r).ok());
  const Token z = expect_after({5, x, y});
  ASSERT_NE(z, 96);
  EXPECT_EQ(r.ids, (std::vector<Token>{x, y, z}));
  EXPECT_EQ(r.offsets, (std::vector<int>{0, 3}));
}

TEST(Runtime, ReturnsLogitsOfRows) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  const std::vector<float> all = rt.all_logits(std::vector<Token>{5, 6, 7}).value();
  ASSERT_EQ(all.size(), 3u * kVocab);
  EXPECT_EQ(all[static_cast<size_t>(expect_after({5}))], 1);
  EXPECT_EQ(all[2 * kVocab + static_cast<size_t>(expect_after({5, 6, 7}))], 1);
  EXPECT_EQ(rt.logits(std::vector<Token>{5, 6}).value()[static_cast<size_t>(expect_after({5, 6}))], 1);
}

TEST(Runtime, StepErrorsNameTheLimit) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  Sequence a({5, 97}, 0, {2});
  sched::StepPlan plan;
  add(plan, a, 0, 2, true);
  EXPECT_EQ(rt.launch(plan).error().message(), "token id 97 at position 1 is outside the vocabulary, 0 .. 96");
  a.tokens = {5, 6};
  plan = {};
  for (int i = 0; i < 5; ++i) add(plan, a, 0, 2, true);
  EXPECT_EQ(rt.launch(plan).error().message(), "a step has 5 sequences, at most 4 fit (max-batch-size)");
  plan = {};
  add(plan, a, 0, 2, true);
  l.fake.fail_next("run", INGOT_OUT_OF_MEMORY, "no room");
  EXPECT_EQ(rt.launch(plan).error().message(), "device fake, running a step: no room");
  l.fake.fail_next("wait", INGOT_ERROR, "an Xid error");
  sched::StepResult r;
  EXPECT_EQ(rt.wait(rt.launch(plan).value(), r).error().message(), "device fake, waiting for a step: an Xid error");
  ASSERT_TRUE(rt.wait(rt.launch(plan).value(), r).ok());  // usable for the next
  EXPECT_EQ(r.ids[0], expect_after({5, 6}));
}

TEST(Load, BindsMappedWeightsInPlaceAndMakesGeneratedOnes) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  EXPECT_GT(rt.memory().weights_mapped_bytes, 0);
  EXPECT_EQ(l.fake.count("unpack"), 0);
  EXPECT_EQ(l.fake.count("pack"), 1);  // the generated head
}

TEST(Load, CopiesToMemoryThatIsNotUnified) {
  Loaded l;
  l.fake.set_unified_memory(false);
  Runtime& rt = l(write_engine("fake.xor"));
  EXPECT_EQ(rt.memory().weights_mapped_bytes, 0);
  EXPECT_EQ(l.fake.count("alloc"), 1);
  EXPECT_EQ(l.fake.count("copy"), 3);
}

TEST(Load, RepacksForAnotherInstructionSet) {
  Loaded l;
  l.fake.refuse_row("fake.xor");
  Runtime& rt = l(write_engine("fake.xor"));
  EXPECT_EQ(l.fake.count("unpack"), 1);
  EXPECT_EQ(rt.plan().steps[1].tactic, "fake.tail");
  EXPECT_EQ(rt.generate_greedy(std::vector<Token>{1, 2}, 1).value()[0], expect_after({1, 2}));
}

TEST(Load, ExpandsAFusedStepThatNoRowAccepts) {
  Loaded l;
  l.fake.refuse_op(static_cast<int>(Op::kGatedLinear));
  Runtime& rt = l(write_engine("fake.xor"));
  std::vector<Op> ops;
  for (const plan::Step& s : rt.plan().steps) ops.push_back(s.op);
  EXPECT_EQ(ops, (std::vector<Op>{Op::kEmbedding, Op::kLinear, Op::kSlice, Op::kSlice, Op::kGated, Op::kAttention, Op::kLastToken, Op::kLinear}));
  EXPECT_TRUE(plan::validate(rt.plan()).ok()) << plan::validate(rt.plan()).error().message();
}

TEST(Load, SaysWhichCoreOpIsMissing) {
  Loaded l;
  l.fake.refuse_op(static_cast<int>(Op::kAttention));
  EXPECT_EQ(l.load(write_engine("fake.xor")).error().message(),
            "device fake has no kernel for step 2, attention(f32[8], f32[8], f32[8]) -> f32[8] heads=1 kv_heads=1 head_dim=8, which is a core op");
}

TEST(Load, SaysWhatIsWrongWithTheFolder) {
  Loaded l;
  EXPECT_EQ(l.load("/nonexistent").error().message(), "engine /nonexistent does not exist");
  const std::string folder = testing::TempDir() + "/empty_engine";
  ASSERT_TRUE(make_directories(folder).ok());
  EXPECT_EQ(l.load(folder).error().message(), cat("engine folder ", folder, " holds no rank0.engine: it holds []"));
}

TEST(Memory, FitsThePoolToTheDevice) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor"));
  EXPECT_EQ(rt.memory().pages, 4 * 128 / 16);  // four sequences of 128 tokens: more could not be used
  EXPECT_EQ(rt.memory().kv_page_bytes, 16 * 16 * 4);
  RuntimeOptions o;
  o.max_tokens_in_paged_kv_cache = 40;
  Runtime& small = l(write_engine("fake.xor"), o);
  EXPECT_EQ(small.memory().pages, 3);
  EXPECT_EQ(small.memory().max_seq_len, 48);
  EXPECT_NE(str(small.memory()).find("3 pages of 16 tokens in f32, 48 tokens"), std::string::npos) << str(small.memory());
  l.fake.set_memory(1 << 20, 20000);
  const auto r = l.load(write_engine("fake.xor"));
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().message().substr(0, 24), "the model does not fit: ");
}

TEST(State, ClearsLoadsAndSavesInOrder) {
  Loaded l;
  Runtime& rt = l(write_engine("fake.xor", /*state=*/true));
  EXPECT_TRUE(rt.has_state());
  EXPECT_EQ(rt.memory().state_rows, 8);
  Sequence a({1, 2, 3}, 1, {0}), b({4, 5}, 2, {1});
  sched::StepPlan first, second;
  sched::StepResult r;
  add(first, a, 0, 3, true);
  first.state_saves.push_back({static_cast<sched::StateId>(1), static_cast<sched::StateId>(6)});
  ASSERT_TRUE(rt.wait(rt.launch(first).value(), r).ok());
  EXPECT_EQ(l.fake.state_traffic(), "clear 1");
  a.tokens.push_back(r.ids[0]);
  add(second, a, 3, 4, true);
  add(second, b, 0, 2, true);
  second.state_loads.push_back({static_cast<sched::StateId>(6), static_cast<sched::StateId>(3)});
  l.fake.fail_next("run", INGOT_ERROR, "once");
  EXPECT_FALSE(rt.launch(second).ok());
  ASSERT_TRUE(rt.wait(rt.launch(second).value(), r).ok());
  EXPECT_EQ(l.fake.state_traffic(), "1>6 6>3 clear 2");  // the save of the step before comes first, and is not lost by a failed launch
}

}  // namespace
}  // namespace ingot::runtime
