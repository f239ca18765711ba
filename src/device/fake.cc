#include "device/fake.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "base/cat.h"
#include "base/random.h"
#include "op/op.h"

namespace ingot::device {

struct FakeDevice::State {
  std::map<std::string, int> counts;
  struct Fault {
    int status;
    std::string message;
  };
  std::map<std::string, Fault> faults;
  std::string error;
  bool unified = true;
  int activations = 0;
  int64_t total = int64_t{8} << 30, free = int64_t{8} << 30;
  std::vector<int> refused;
  std::vector<std::string> refused_rows;
  std::string state_traffic;
};

}  // namespace ingot::device

struct ingot_device {
  int opened = 1;
};

struct ingot_executable {
  int vocab = 0, page_tokens = 0, max_pages = 0;
  std::vector<int32_t> pages;      // [pages, P] token that stands at each place: the fake's KV
  std::vector<int32_t> previous;   // ids of the step before
  struct Flight {
    uint64_t ticket;
    ingot_bindings bindings;
  };
  std::vector<Flight> flights;
  uint64_t next = 1;
  std::vector<int32_t> ids;
  std::vector<float> logprobs, logits;
};

namespace ingot::device {
namespace {

FakeDevice::State* g_fake = nullptr;

int enter(const char* call) {
  ++g_fake->counts[call];
  auto it = g_fake->faults.find(call);
  if (it == g_fake->faults.end()) return INGOT_OK;
  g_fake->error = it->second.message;
  const int status = it->second.status;
  g_fake->faults.erase(it);
  return status;
}

int fail(const std::string& message) {
  g_fake->error = message;
  return INGOT_INVALID;
}

int count() { return enter("count") ? 0 : 1; }

int properties(int, ingot_device_properties* p) {
  if (int s = enter("properties")) return s;
  std::strcpy(p->name, "Fake device");
  std::strcpy(p->id, "fake-1");
  p->memory_bytes = g_fake->total;
  p->free_bytes = g_fake->free;
  p->units = 1;
  p->preferred_activation_dtype = g_fake->activations;
  p->preferred_kv_dtype = 0;
  p->unified_memory = g_fake->unified;
  return INGOT_OK;
}

int open(int, const char*, ingot_device** out) {
  if (int s = enter("open")) return s;
  *out = new ingot_device;
  return INGOT_OK;
}

void close(ingot_device* device) {
  enter("close");
  delete device;
}

int alloc(ingot_device*, size_t bytes, void** out) {
  if (int s = enter("alloc")) return s;
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
  return *out ? INGOT_OK : INGOT_OUT_OF_MEMORY;
}

void release_memory(ingot_device*, void* memory) {
  enter("free");
  std::free(memory);
}

int copy(ingot_device*, void* to, const void* from, size_t bytes) {
  if (int s = enter("copy")) return s;
  std::memcpy(to, from, bytes);
  return INGOT_OK;
}

bool is_linear(const ingot_op_desc* d) {
  return d->op == static_cast<int>(op::Op::kLinear) || d->op == static_cast<int>(op::Op::kGatedLinear);
}

int kernels(ingot_device*, const ingot_op_desc* desc, const char** names, int max) {
  enter("kernels");
  if (std::count(g_fake->refused.begin(), g_fake->refused.end(), desc->op)) return 0;
  int n = 0;
  for (const char* row : {"fake.xor", "fake.tail", "fake.plain"}) {
    if (row != std::string_view("fake.plain") && !is_linear(desc)) continue;
    if (std::count(g_fake->refused_rows.begin(), g_fake->refused_rows.end(), row)) continue;
    if (n < max) names[n] = row;
    ++n;
  }
  return std::min(n, max);
}

size_t raw_bytes(const ingot_op_desc* desc, int index) { return op::raw_sizes(desc->weight[index]).total(); }

int packed_bytes(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, size_t* out) {
  if (index < 0 || index >= desc->weights) return fail(cat("weight ", index, " does not exist"));
  *out = raw_bytes(desc, index) + (tactic == std::string_view("fake.tail") ? 64 : 0);
  return INGOT_OK;
}

void flip(const char* from, char* to, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) to[i] = static_cast<char>(from[i] ^ 0x5a);
}

int pack(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, const void* raw, void* packed) {
  if (int s = enter("pack")) return s;
  const size_t bytes = raw_bytes(desc, index);
  const char* from = static_cast<const char*>(raw);
  char* to = static_cast<char*>(packed);
  const std::string_view row = tactic;
  if (row == "fake.xor") {
    flip(from, to, bytes);
  } else if (row == "fake.tail") {
    std::memset(to, 7, 64);
    std::reverse_copy(from, from + bytes, to + 64);
  } else {
    std::memcpy(to, from, bytes);
  }
  return INGOT_OK;
}

int unpack(ingot_device*, const char* tactic, const ingot_op_desc* desc, int index, const void* packed, void* raw) {
  if (int s = enter("unpack")) return s;
  const size_t bytes = raw_bytes(desc, index);
  const char* from = static_cast<const char*>(packed);
  char* to = static_cast<char*>(raw);
  const std::string_view row = tactic;
  if (row == "fake.xor") {
    flip(from, to, bytes);
  } else if (row == "fake.tail") {
    std::reverse_copy(from + 64, from + 64 + bytes, to);
  } else if (row == "fake.plain") {
    std::memcpy(to, from, bytes);
  } else {
    g_fake->error = cat("no kernel row '", tactic, "' here");
    return INGOT_UNSUPPORTED;
  }
  return INGOT_OK;
}

int prepare(ingot_device*, const ingot_program* p, ingot_executable** out) {
  if (int s = enter("prepare")) return s;
  for (int i = 0; i < p->n_steps; ++i)
    for (int w = 0; w < p->steps[i].desc.weights; ++w)
      if (!p->steps[i].weight[w]) return fail(cat("step ", i, " has no weight ", w));
  auto* e = new ingot_executable;
  e->vocab = p->vocab_size;
  e->page_tokens = p->page_tokens;
  e->max_pages = p->max_pages_per_sequence;
  e->pages.assign(static_cast<size_t>(p->pages * p->page_tokens), -1);
  *out = e;
  return INGOT_OK;
}

void release(ingot_executable* e) {
  enter("release");
  delete e;
}

int run(ingot_executable* e, const ingot_bindings* b, uint64_t* ticket) {
  if (int s = enter("run")) return s;
  if (e->flights.size() >= 2) return fail("more than two tickets in flight");
  std::string& traffic = g_fake->state_traffic;
  traffic.clear();
  for (int i = 0; i < b->n_copy_states; ++i) traffic += cat(traffic.empty() ? "" : " ", b->copy_states[2 * i], '>', b->copy_states[2 * i + 1]);
  for (int i = 0; i < b->n_clear_states; ++i) traffic += cat(traffic.empty() ? "" : " ", "clear ", b->clear_states[i]);
  e->flights.push_back({e->next, *b});
  *ticket = e->next++;
  return INGOT_OK;
}

// Everything is done here, as late as the contract allows: arrays changed too early show as wrong ids.
int wait(ingot_executable* e, uint64_t ticket, ingot_results* out) {
  if (e->flights.empty() || e->flights.front().ticket != ticket) return fail("tickets are waited for in order");
  const ingot_bindings b = e->flights.front().bindings;
  e->flights.erase(e->flights.begin());
  const int P = e->page_tokens;
  for (int i = 0; i < b.n_copy_pages; ++i)
    std::copy_n(&e->pages[static_cast<size_t>(b.copy_pages[2 * i] * P)], P, &e->pages[static_cast<size_t>(b.copy_pages[2 * i + 1] * P)]);
  std::vector<int32_t> ids;
  e->logits.clear();
  auto place = [&](int slice, int position) -> int32_t& {
    return e->pages[static_cast<size_t>(b.page_table[slice * e->max_pages + position / P] * P + position % P)];
  };
  for (int s = 0; s < b.slices; ++s)
    for (int t = b.slice_begin[s]; t < b.slice_begin[s + 1]; ++t) {
      const int32_t token = b.tokens[t] < 0 ? e->previous.at(static_cast<size_t>(-1 - b.tokens[t])) : b.tokens[t];
      place(s, b.positions[t]) = token;
    }
  for (int r = 0; r < b.logits; ++r) {
    int s = 0;
    while (b.slice_begin[s + 1] <= b.logits_row[r]) ++s;
    std::vector<int32_t> context;
    for (int p = 0; p <= b.positions[b.logits_row[r]]; ++p) context.push_back(place(s, p));
    ids.push_back(FakeDevice::expected_id(context, e->vocab));
    if (b.want_logits)
      for (int v = 0; v < e->vocab; ++v) e->logits.push_back(v == ids.back() ? 1.f : 0.f);
  }
  if (b.sampling) e->previous = ids;
  e->ids = ids;
  e->logprobs.assign(ids.size(), -0.5f);
  if (int s = enter("wait")) return s;
  out->ids = e->ids.data();
  out->logprobs = e->logprobs.data();
  out->logits = b.want_logits ? e->logits.data() : nullptr;
  out->seconds = 1e-6;
  return INGOT_OK;
}

int time_kernel(ingot_device*, const char* tactic, const ingot_op_desc*, int rows, double* seconds) {
  if (int s = enter("time_kernel")) return s;
  const std::string_view row = tactic;
  *seconds = row == "fake.plain" ? 9e-6 : (row == "fake.xor") == (rows < 8) ? 1e-6 : 2e-6;
  return INGOT_OK;
}

const char* last_error() { return g_fake->error.c_str(); }

const ingot_device_api kApi = {
    INGOT_DEVICE_ABI, sizeof(ingot_device_api), "fake",  count, properties, open, close, alloc, release_memory, copy, kernels,
    packed_bytes,     pack,                     unpack, prepare, release,   run,  wait,  time_kernel, last_error,
};

}  // namespace

FakeDevice::FakeDevice() : state_(new State) { g_fake = state_; }

FakeDevice::~FakeDevice() {
  g_fake = nullptr;
  delete state_;
}

const ingot_device_api* FakeDevice::api() const { return &kApi; }

void FakeDevice::fail_next(const std::string& call, int status, const std::string& message) { state_->faults[call] = {status, message}; }
int FakeDevice::count(const std::string& call) const {
  auto it = state_->counts.find(call);
  return it == state_->counts.end() ? 0 : it->second;
}
void FakeDevice::set_unified_memory(bool unified) { state_->unified = unified; }
void FakeDevice::set_activation_dtype(int dtype) { state_->activations = dtype; }
void FakeDevice::set_memory(int64_t total_bytes, int64_t free_bytes) {
  state_->total = total_bytes;
  state_->free = free_bytes;
}
const std::string& FakeDevice::state_traffic() const { return state_->state_traffic; }
void FakeDevice::refuse_op(int op) { state_->refused.push_back(op); }
void FakeDevice::refuse_row(const char* row) { state_->refused_rows.push_back(row); }

int FakeDevice::expected_id(const std::vector<int32_t>& tokens, int vocab_size) {
  uint64_t h = 1;
  for (int32_t t : tokens) h = mix64(h + static_cast<uint64_t>(static_cast<int64_t>(t)) + 0x9e3779b97f4a7c15u);
  return static_cast<int>(h % static_cast<uint64_t>(vocab_size));
}

}  // namespace ingot::device
