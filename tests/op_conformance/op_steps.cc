// The step machinery of a device, which single ops do not reach: logits and sampling, fed-back tokens with two steps in flight, decode
// steps repeated often enough to be replayed from a captured graph, copies and clears of sequence state.
//
//   op_steps [--device cpu|PLUGIN.so]
//
// The model: logits = (e(t) + shift(e)) W^T, with random e and W. Sampled ids are judged by the logits that the device itself returns.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/cpu.h"
#include "device/device.h"
#include "op/op.h"
#include "tensor/dtype.h"

namespace ingot {
namespace {

constexpr int kVocab = 40, kWidth = 64, kSlots = 4, kRows = 8;

int failures = 0;
void expect(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED %s\n", what.c_str());
}

struct Model {
  std::vector<ingot_step> steps;
  std::vector<ingot_buffer> buffers;
  std::vector<device::DeviceMemory> memory;
  int32_t state_width = kWidth;
  device::Executable exec;
};

float noise(uint32_t i) {
  i = (i ^ 61) ^ (i >> 16);
  i *= 9;
  i ^= i >> 4;
  i *= 0x27d4eb2d;
  return static_cast<float>(i >> 8) * 0x1p-23f - 1.0f;
}

Status bind(device::Device& device, Model& m, ingot_step& s, uint32_t seed) {
  const std::vector<const char*> names = device.kernels(s.desc);
  if (names.empty()) return Error(Code::kUnsupported, cat("no kernel row accepts ", device::describe(s.desc)));
  s.tactic = names[0];
  if (s.desc.weights == 0) return {};
  const size_t raw_bytes = op::raw_sizes(s.desc.weight[0]).total();
  std::vector<float> raw(raw_bytes / 4);
  for (size_t i = 0; i < raw.size(); ++i) raw[i] = noise(seed + static_cast<uint32_t>(i));
  std::vector<std::byte> packed(TRY(device.packed_bytes(s.tactic, s.desc, 0)));
  TRY(device.pack(s.tactic, s.desc, 0, raw.data(), packed.data()));
  m.memory.push_back(TRY(device.alloc(packed.size())));
  s.weight[0] = m.memory.back().data();
  return device.copy(m.memory.back().data(), packed.data(), packed.size());
}

Status build(device::Device& device, Model& m) {
  const int activation = TRY(device.properties()).preferred_activation_dtype, i32 = static_cast<int>(DType::kI32);
  for (int i = 0; i < 3; ++i) m.buffers.push_back({i32, 1, INGOT_ROWS_TOKENS, -1 - i});
  m.buffers.push_back({static_cast<int>(DType::kF32), kVocab, INGOT_ROWS_LOGITS, -4});
  for (int i = 0; i < 3; ++i) m.buffers.push_back({activation, kWidth, INGOT_ROWS_TOKENS, i});
  m.buffers.push_back({activation, kWidth, INGOT_ROWS_LOGITS, 3});
  const auto step = [&](op::Op op, std::vector<int> in, int out, ingot_weight_desc weight) {
    ingot_step s{};
    s.desc.op = static_cast<int32_t>(op);
    s.desc.inputs = static_cast<int32_t>(in.size());
    s.desc.outputs = 1;
    s.desc.attrs.scale = 1;
    s.desc.weights = weight.k ? 1 : 0;
    s.desc.weight[0] = weight;
    const auto operand = [&](int b) { return ingot_operand{b, 0, m.buffers[static_cast<size_t>(b)].width, m.buffers[static_cast<size_t>(b)].width}; };
    for (size_t i = 0; i < in.size(); ++i) {
      s.in[i] = operand(in[i]);
      s.desc.in_dtype[i] = m.buffers[static_cast<size_t>(in[i])].dtype;
      s.desc.in_width[i] = s.in[i].width;
    }
    s.out[0] = operand(out);
    s.desc.out_dtype[0] = m.buffers[static_cast<size_t>(out)].dtype;
    s.desc.out_width[0] = s.out[0].width;
    m.steps.push_back(s);
  };
  step(op::Op::kEmbedding, {INGOT_BUF_TOKENS}, 4, {0, 0, 0, 0, kVocab, kWidth});
  step(op::Op::kShift, {4}, 5, {});
  step(op::Op::kAdd, {4, 5}, 6, {});
  step(op::Op::kLastToken, {6}, 7, {});
  step(op::Op::kLinear, {7}, INGOT_BUF_LOGITS, {0, 0, 0, 0, kVocab, kWidth});
  for (size_t i = 0; i < m.steps.size(); ++i) TRY(bind(device, m, m.steps[i], static_cast<uint32_t>(i) * 100003));
  ingot_program p{};
  p.struct_bytes = sizeof p;
  p.steps = m.steps.data();
  p.n_steps = static_cast<int32_t>(m.steps.size());
  p.buffers = m.buffers.data();
  p.n_buffers = static_cast<int32_t>(m.buffers.size());
  p.vocab_size = kVocab;
  p.page_tokens = 16;
  p.state_widths = &m.state_width;
  p.n_states = 1;
  p.state_slots = kSlots;
  p.max_tokens = kRows;
  p.max_slices = kSlots;
  p.max_logits = kSlots;
  p.max_pages_per_sequence = 1;
  m.exec = TRY(device.prepare(p));
  return {};
}

// One step: a row for each entry of tokens, each its own sequence in the slot beside it.
struct Step {
  std::vector<int32_t> tokens, slots, zeros = std::vector<int32_t>(kRows), positions = zeros, begin, rows, copy, clear;
  std::vector<ingot_sampling> sampling;
  ingot_bindings b{};
  Step(std::vector<int32_t> t, std::vector<int32_t> s) : tokens(std::move(t)), slots(std::move(s)) {
    for (size_t i = 0; i <= tokens.size(); ++i) begin.push_back(static_cast<int32_t>(i));
    rows.assign(begin.begin(), begin.end() - 1);
    ingot_sampling greedy{};
    greedy.repetition_penalty = 1;
    greedy.logprobs = 3;
    greedy.feedback_from_previous = -1;
    sampling.assign(tokens.size(), greedy);
  }
  const ingot_bindings& bindings() {
    b.struct_bytes = sizeof b;
    b.tokens_count = b.slices = b.logits = static_cast<int32_t>(tokens.size());
    b.tokens = tokens.data();
    b.positions = positions.data();
    b.prompt_length = b.kv_length = b.page_table = zeros.data();
    b.slice_begin = begin.data();
    b.state_slot = slots.data();
    b.logits_row = rows.data();
    b.sampling = sampling.data();
    b.copy_states = copy.data();
    b.n_copy_states = static_cast<int32_t>(copy.size() / 2);
    b.clear_states = clear.data();
    b.n_clear_states = static_cast<int32_t>(clear.size());
    b.dump_buffer = -1;
    return b;
  }
};

struct Got {
  std::vector<int32_t> ids, top_ids;
  std::vector<float> logits, logprobs;
};

Result<Got> finish(Model& m, uint64_t ticket, const Step& s) {
  ingot_results r{};
  r.struct_bytes = sizeof r;
  TRY(m.exec.wait(ticket, r));
  const size_t n = s.tokens.size();
  Got g;
  g.ids.assign(r.ids, r.ids + n);
  g.logprobs.assign(r.logprobs, r.logprobs + n);
  for (size_t i = 0; i < n; ++i) g.top_ids.push_back(r.top_ids[i * static_cast<size_t>(r.max_top)]);
  if (r.logits) g.logits.assign(r.logits, r.logits + n * kVocab);
  return g;
}
Result<Got> run(Model& m, Step& s) {
  s.b.want_logits = 1;
  return finish(m, TRY(m.exec.run(s.bindings())), s);
}

int argmax(const float* x) { return static_cast<int>(std::max_element(x, x + kVocab) - x); }

Status sampling(Model& m) {
  Step s({3, 7, 11, 19}, {0, 1, 2, 3});
  s.clear = {0, 1, 2, 3};
  const Got plain = TRY(run(m, s));
  for (size_t r = 0; r < 4; ++r) {
    const float* x = &plain.logits[r * kVocab];
    double sum = 0;
    for (int i = 0; i < kVocab; ++i) sum += std::exp(static_cast<double>(x[i]));
    expect(plain.ids[r] == argmax(x) && plain.top_ids[r] == plain.ids[r], cat("greedy id of row ", r, ": ", plain.ids[r], ", want ", argmax(x)));
    expect(std::abs(plain.logprobs[r] - (x[argmax(x)] - std::log(sum))) < 1e-3, cat("logprob of row ", r, ": ", plain.logprobs[r]));
  }
  // Row 0: the best is banned. 1: a bias lifts id 5. 2: a mask leaves id 33. 3: the best was answered before, and is punished.
  const int32_t banned = plain.ids[0], lifted = 5, history[] = {1, plain.ids[3]};
  const float bias = 1000;
  const uint32_t mask[] = {0, 2};
  s.sampling[0].banned = &banned;
  s.sampling[0].n_banned = 1;
  s.sampling[1].bias_ids = &lifted;
  s.sampling[1].bias_values = &bias;
  s.sampling[1].n_bias = 1;
  s.sampling[2].mask = mask;
  s.sampling[3].history = history;
  s.sampling[3].n_history = 2;
  s.sampling[3].n_prompt = 1;
  s.sampling[3].frequency_penalty = 1000;
  const Got changed = TRY(run(m, s));
  std::vector<float> rest(changed.logits.begin(), changed.logits.begin() + kVocab), punished(changed.logits.begin() + 3 * kVocab, changed.logits.end());
  rest[static_cast<size_t>(banned)] = -1e30f;
  punished[static_cast<size_t>(plain.ids[3])] -= 1000;
  expect(changed.ids[0] == argmax(rest.data()), cat("banned id ", banned, " gives ", changed.ids[0]));
  expect(changed.ids[1] == 5, cat("biased row gives ", changed.ids[1]));
  expect(changed.ids[2] == 33, cat("masked row gives ", changed.ids[2]));
  expect(changed.ids[3] == argmax(punished.data()), cat("punished row gives ", changed.ids[3]));
  // Sampled: the same seed and position give the same id in another row; top-k 2 stays within the two best; seeds differ.
  std::vector<int> seen(kVocab);
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Step t({3, 7, 3, 3}, {0, 1, 2, 3});
    t.clear = {0, 1, 2, 3};
    for (ingot_sampling& x : t.sampling) x.temperature = 1.5f, x.seed = seed, x.top_p = 1;
    t.sampling[3].top_k = 2;
    const Got g = TRY(run(m, t));
    expect(g.ids[0] == g.ids[2], cat("seed ", seed, " gives ", g.ids[0], " and ", g.ids[2], " for the same logits"));
    std::vector<float> x(g.logits.begin() + 3 * kVocab, g.logits.end());
    const int first = argmax(x.data());
    x[static_cast<size_t>(first)] = -1e30f;
    expect(g.ids[3] == first || g.ids[3] == argmax(x.data()), cat("top-k 2 gives ", g.ids[3]));
    ++seen[static_cast<size_t>(g.ids[0])];
  }
  expect(std::count(seen.begin(), seen.end(), 0) < kVocab - 1, "40 seeds give one id only");
  return {};
}

// Greedy decoding of two sequences, step by step, then with two steps in flight whose tokens refer to the step before.
Status decoding(Model& m) {
  constexpr int kSteps = 12;
  std::vector<int32_t> want;
  std::vector<int32_t> now{2, 9};
  for (int i = 0; i < kSteps; ++i) {
    Step s(now, {0, 1});
    if (i == 0) s.clear = {0, 1};
    s.positions.assign(kRows, i);
    now = TRY(run(m, s)).ids;
    want.insert(want.end(), now.begin(), now.end());
  }
  std::vector<Step> steps;
  for (int i = 0; i < kSteps; ++i) steps.push_back(i == 0 ? Step({2, 9}, {0, 1}) : Step({-1, -2}, {0, 1}));
  steps[0].clear = {0, 1};
  for (int i = 0; i < kSteps; ++i) steps[static_cast<size_t>(i)].positions.assign(kRows, i);
  std::vector<uint64_t> tickets;
  std::vector<int32_t> got;
  for (int i = 0; i <= kSteps; ++i) {
    if (i < kSteps) tickets.push_back(TRY(m.exec.run(steps[static_cast<size_t>(i)].bindings())));
    if (i == 0) continue;
    const Got g = TRY(finish(m, tickets[static_cast<size_t>(i - 1)], steps[static_cast<size_t>(i - 1)]));
    got.insert(got.end(), g.ids.begin(), g.ids.end());
  }
  expect(got == want, cat("two steps in flight give ", got, ", one at a time gives ", want));
  return {};
}

Status states(Model& m) {
  Step first({4}, {0});
  first.clear = {0, 1};
  TRY(run(m, first));
  Step fork({6, 6, 6}, {0, 1, 2});
  fork.copy = {0, 1};
  fork.clear = {2};
  fork.positions.assign(kRows, 1);
  const Got g = TRY(run(m, fork));
  const auto row = [&](size_t r) { return std::vector<float>(g.logits.begin() + static_cast<ptrdiff_t>(r * kVocab), g.logits.begin() + static_cast<ptrdiff_t>((r + 1) * kVocab)); };
  expect(row(0) == row(1), "a copied state gives other logits than its origin");
  expect(row(0) != row(2), "a cleared state gives the logits of a carried one");
  return {};
}

// Weights come in copies too large for one buffer of a device, from memory at any address.
Status copies(device::Device& device) {
  std::vector<uint32_t> sent((size_t{37} << 20) / 4 + 3), back(sent.size() + 1, 7);
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<uint32_t>(i * 2654435761u);
  const size_t bytes = (sent.size() - 1) * 4;
  device::DeviceMemory memory = TRY(device.alloc(bytes));
  TRY(device.copy(memory.data(), sent.data() + 1, bytes));
  TRY(device.copy(back.data() + 1, memory.data(), bytes));
  expect(std::equal(sent.begin() + 1, sent.end(), back.begin() + 1), "a large copy to the device and back differs");
  expect(back.front() == 7 && back.back() == 7, "a copy wrote beside its range");
  return {};
}

int main_of(int argc, char** argv) {
  const std::string spec = argc > 2 && std::strcmp(argv[1], "--device") == 0 ? argv[2] : "cpu";
  const ingot_device_api* linked[] = {cpu::cpu_device_api()};
  Result<std::shared_ptr<device::Device>> device = device::open_device(spec, {.linked = linked, .plugin_path = "", .options_json = "{}"});
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", device.error().message().c_str());
    return 2;
  }
  Model m;
  Status s = build(**device, m);
  for (auto test : {sampling, decoding, states})
    if (s.ok()) s = test(m);
  if (s.ok()) s = copies(**device);
  if (!s.ok()) {
    ++failures;
    std::printf("FAILED %s\n", s.error().message().c_str());
  }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}

}  // namespace
}  // namespace ingot

int main(int argc, char** argv) { return ingot::main_of(argc, argv); }
