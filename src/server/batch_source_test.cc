// The queues by themselves: the test gives the time, in nanoseconds.
#include "server/batch_source.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace ingot::server {
namespace {

class TestSink : public ResponseSink {
 public:
  bool gone = false;
  CallTimes marks;
  void send(InferResponse) override {}
  bool cancelled() const override { return gone; }
  void on_cancel(std::function<void()>) override {}
  CallTimes& times() override { return marks; }
  void started() override {}
};

constexpr uint64_t kUs = 1000;

ModelConfig config(int batch) {
  ModelConfig c;
  c.name = "m";
  c.max_batch_size = batch;
  c.input.push_back({.name = "A", .data_type = DataType::kInt32, .dims = {-1}});
  return c;
}

struct Queue {
  explicit Queue(const ModelConfig& c, int instances = 1) : source(make_batch_source(c, instances, "").value()) {}
  std::unique_ptr<BatchSource> source;
  std::vector<std::shared_ptr<TestSink>> sinks;
  uint64_t wake = 0;

  static std::shared_ptr<InferRequest> request(const std::string& id, int64_t rows, int64_t width) {
    auto r = std::make_shared<InferRequest>();
    r->id = id;
    r->inputs.push_back(vector_tensor<int32_t>("A", {rows, width}, std::vector<int32_t>(static_cast<size_t>(rows * width), 7)));
    return r;
  }
  std::string push(std::shared_ptr<InferRequest> r, uint64_t now) {
    sinks.push_back(std::make_shared<TestSink>());
    Status s = source->push({r, sinks.back()}, now);
    return s.ok() ? "" : s.error().message();
  }
  std::string push(const std::string& id, uint64_t now = 0, int64_t rows = 1, int64_t width = 1) { return push(request(id, rows, width), now); }
  // A request of a sequence: "s" start, "e" end.
  std::string step(uint64_t sequence, const std::string& id, const std::string& flags = "", uint64_t now = 0) {
    auto r = request(id, 1, 1);
    r->sequence_id = sequence;
    r->sequence_start = flags.find('s') != std::string::npos;
    r->sequence_end = flags.find('e') != std::string::npos;
    return push(r, now);
  }
  // The ids of the next batch; "-" for a placeholder, "" when none is due.
  std::vector<Taken> last;
  std::string take(uint64_t now = 0, int instance = 0) {
    const bool due = source->due(instance, now);
    last = source->take(instance, now, wake);
    EXPECT_EQ(due, !last.empty()) << "due() and take() differ";
    std::string out;
    for (const Taken& t : last) out += t.invocation.sink ? t.invocation.request->id : "-";
    return out;
  }
  void end(uint64_t now = 0) {
    for (const Taken& t : last)
      if (t.ticket) source->ended(t.ticket.get(), now);
  }
  std::string run(uint64_t now = 0, int instance = 0) {
    std::string out = take(now, instance);
    end(now);
    return out;
  }
  std::string sweep(uint64_t now) {
    std::string out;
    for (const Refused& r : source->sweep(now, wake)) out += cat(r.invocation.request->id, ":", r.error.message(), ";");
    return out;
  }
};

TEST(RequestQueue, WithoutBatchingOneRequestAtATime) {
  Queue q(config(4));
  q.push("a");
  q.push("b", 0, 3);
  EXPECT_EQ(q.take(), "a");
  EXPECT_EQ(q.take(), "b");
  EXPECT_EQ(q.last[0].batch_size, 3u);
  EXPECT_EQ(q.take(), "");
  EXPECT_EQ(q.wake, kNever);
}

TEST(RequestQueue, PreferredSizesAndDelay) {
  ModelConfig c = config(8);
  c.dynamic_batching.emplace();
  c.dynamic_batching->preferred_batch_size = {2, 6};
  c.dynamic_batching->max_queue_delay_microseconds = 100;
  Queue q(c);
  q.push("a", 0);
  EXPECT_EQ(q.take(10 * kUs), "");
  EXPECT_EQ(q.wake, 100 * kUs);
  q.push("b", 20 * kUs);
  EXPECT_EQ(q.take(20 * kUs), "ab");  // a preferred size: at once
  for (const char* id : {"c", "d", "e"}) q.push(id, 30 * kUs);
  EXPECT_EQ(q.take(30 * kUs), "cd");  // the best preferred size there is
  EXPECT_EQ(q.take(129 * kUs), "");
  EXPECT_EQ(q.take(130 * kUs), "e");  // late
  for (const char* id : {"f", "g", "h", "i", "j", "k", "l"}) q.push(id, 200 * kUs);
  EXPECT_EQ(q.take(200 * kUs), "fghijk");
  q.push("m", 310 * kUs);
  q.push("n", 310 * kUs);
  EXPECT_EQ(q.take(310 * kUs), "lmn");  // late: all there is
}

TEST(RequestQueue, WithoutDelayWhatThereIs) {
  ModelConfig c = config(4);
  c.dynamic_batching.emplace().preferred_batch_size = {4};
  Queue q(c);
  q.push("a");
  q.push("b", 0, 2);
  q.push("c", 0, 2);  // does not fit
  EXPECT_EQ(q.take(), "ab");
  EXPECT_EQ(q.take(), "c");
}

TEST(RequestQueue, OnlyEqualShapesAndInputsJoin) {
  ModelConfig c = config(8);
  c.dynamic_batching.emplace();
  c.input.push_back({.name = "B", .data_type = DataType::kInt32, .dims = {1}, .optional = true});
  Queue q(c);
  q.push("a", 0, 1, 3);
  q.push("b", 0, 1, 4);
  q.push("c", 0, 2, 4);
  auto r = Queue::request("d", 1, 4);
  r->inputs.push_back(scalar_tensor<int32_t>("B", {1, 1}, 1));
  q.push(r, 0);
  EXPECT_EQ(q.take(), "a");
  EXPECT_EQ(q.take(), "bc");
  EXPECT_EQ(q.take(), "d");
  c.input[0].allow_ragged_batch = true;
  Queue ragged(c);
  ragged.push("a", 0, 1, 3);
  ragged.push("b", 0, 1, 4);
  EXPECT_EQ(ragged.take(), "ab");
}

TEST(RequestQueue, PrioritiesAndTheirPolicies) {
  ModelConfig c = config(4);
  c.dynamic_batching.emplace();
  c.dynamic_batching->priority_levels = 3;
  c.dynamic_batching->default_priority_level = 2;
  c.dynamic_batching->default_queue_policy.emplace().max_queue_size = 2;
  c.dynamic_batching->priority_queue_policy[3].max_queue_size = 1;
  Queue q(c);
  const auto push = [&](const char* id, uint64_t priority) {
    auto r = Queue::request(id, 4, 1);
    r->priority = priority;
    return q.push(r, 0);
  };
  EXPECT_EQ(push("a", 3), "");
  EXPECT_EQ(push("b", 3), "Exceeds maximum queue size");
  EXPECT_EQ(push("c", 0), "");   // the default level
  EXPECT_EQ(push("d", 99), "");  // out of range: the default level too
  EXPECT_EQ(push("e", 2), "Exceeds maximum queue size");
  EXPECT_EQ(push("f", 1), "");
  EXPECT_EQ(q.take(), "f");
  EXPECT_EQ(q.take(), "c");
  EXPECT_EQ(q.take(), "d");
  EXPECT_EQ(q.take(), "a");
}

TEST(RequestQueue, TimeoutsRejectOrDelay) {
  ModelConfig c = config(1);
  QueuePolicy& p = c.dynamic_batching.emplace().default_queue_policy.emplace();
  p.default_timeout_microseconds = 100;
  p.allow_timeout_override = true;
  Queue reject(c);
  reject.push("a", 0);
  auto r = Queue::request("b", 1, 1);
  r->timeout_us = 50;  // may shorten
  reject.push(r, 0);
  r = Queue::request("c", 1, 1);
  r->timeout_us = 500;  // may not lengthen
  reject.push(r, 10 * kUs);
  EXPECT_EQ(reject.source->sweep_at(), 50 * kUs);
  EXPECT_EQ(reject.sweep(50 * kUs), "b:Request timeout expired;");
  EXPECT_EQ(reject.wake, 100 * kUs);
  EXPECT_EQ(reject.sweep(110 * kUs), "a:Request timeout expired;c:Request timeout expired;");
  EXPECT_EQ(reject.source->size(), 0u);
  p.timeout_action = QueuePolicy::TimeoutAction::kDelay;
  Queue delay(c);
  delay.push("a", 0);
  delay.push("b", 60 * kUs);
  EXPECT_EQ(delay.sweep(110 * kUs), "");
  EXPECT_EQ(delay.take(110 * kUs), "b");
  EXPECT_EQ(delay.take(110 * kUs), "a");
}

TEST(RequestQueue, AModelsOwnStrategyClosesBatches) {
  struct ThreeAtMost : BatchStrategy {
    int open = 0;
    void* begin() override { return ++open, new int(0); }
    bool include(void* batch, const Invocation&) override { return ++*static_cast<int*>(batch) <= 3; }
    void end(void* batch) override { --open, delete static_cast<int*>(batch); }
  } strategy;
  ModelConfig c = config(8);
  c.dynamic_batching.emplace();
  Queue q(c);
  q.source = make_batch_source(c, 1, "", &strategy).value();
  for (const char* id : {"a", "b", "c", "d", "e"}) q.push(id);
  EXPECT_EQ(q.take(), "abc");
  EXPECT_EQ(q.take(), "de");
  EXPECT_EQ(strategy.open, 0);
}

TEST(RequestQueue, CancelledRequestsLeave) {
  Queue q(config(1));
  q.push("a");
  q.push("b");
  q.sinks[0]->gone = true;
  EXPECT_EQ(q.sweep(0), "a:Request cancelled;");
  EXPECT_EQ(q.take(), "b");
}

ModelConfig sequences(int batch, bool ready = false) {
  ModelConfig c = config(batch);
  SequenceBatching& s = c.sequence_batching.emplace();
  s.direct.emplace();
  s.max_sequence_idle_microseconds = 1000;
  const auto add = [&](const char* name, SequenceBatching::Control::Kind kind) -> SequenceBatching::Control& {
    s.control_input.push_back({name, {{}}});
    s.control_input.back().control[0].kind = kind;
    return s.control_input.back().control[0];
  };
  using Kind = SequenceBatching::Control::Kind;
  add("START", Kind::kSequenceStart).int32_false_true = {0, 1};
  add("END", Kind::kSequenceEnd).fp32_false_true = {0, 1};
  if (ready) add("READY", Kind::kSequenceReady).bool_false_true = {false, true};
  add("CORRID", Kind::kSequenceCorrid).data_type = DataType::kUint64;
  return c;
}

double control(const Taken& t, const char* name) { return read_number(*t.invocation.request->find_input(name)).value(); }

TEST(SequenceQueue, RefusesWithTritonsTexts) {
  Queue q(sequences(2));
  EXPECT_EQ(q.push("a"), "inference request to model 'm' must specify a non-zero or non-empty correlation ID");
  EXPECT_EQ(q.step(5, "a"), "inference request for sequence 5 to model 'm' must specify the START flag on the first request of the sequence");
  EXPECT_EQ(q.push("a", 0, 2), "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher");
  auto r = Queue::request("a", 1, 1);
  r->sequence_id = "name";
  r->sequence_start = true;
  EXPECT_NE(q.push(r, 0).find("has the string correlation ID 'name'"), std::string::npos);
  EXPECT_EQ(q.step(5, "a", "se"), "");
  EXPECT_EQ(q.step(5, "b"), "inference request for sequence 5 to model 'm' must specify the START flag on the first request of the sequence");
}

TEST(SequenceQueue, DirectBatchesOneRequestOfEachSlot) {
  Queue q(sequences(2));
  q.step(1, "a", "s");
  q.step(1, "b", "e");
  q.step(2, "c", "s");
  q.step(3, "x", "s");  // no slot: the backlog
  EXPECT_EQ(q.take(), "ac");
  EXPECT_EQ(control(q.last[0], "START"), 1);
  EXPECT_EQ(control(q.last[0], "END"), 0);
  EXPECT_EQ(control(q.last[1], "CORRID"), 2);
  EXPECT_EQ(q.last[0].invocation.request->find_input("START")->shape, (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(q.source->size(), 2u);
  std::vector<Taken> first = q.last;
  EXPECT_EQ(q.take(), "");  // both sequences are busy
  q.source->ended(first[0].ticket.get(), 0);
  EXPECT_EQ(q.take(), "b");
  EXPECT_EQ(control(q.last[0], "END"), 1);
  EXPECT_EQ(control(q.last[0], "START"), 0);
  q.end();
  EXPECT_EQ(q.run(), "x");  // got the slot of 1
}

TEST(SequenceQueue, EmptySlotsGetPlaceholders) {
  Queue q(sequences(3, true));
  q.step(1, "a", "s");
  q.step(2, "b", "s");
  q.step(3, "c", "s");
  EXPECT_EQ(q.run(), "abc");
  q.step(3, "d");
  EXPECT_EQ(q.take(), "--d");
  EXPECT_EQ(control(q.last[0], "READY"), 0);
  EXPECT_EQ(control(q.last[2], "READY"), 1);
  EXPECT_EQ(read_integer(*q.last[0].invocation.request->find_input("A")).value(), 0);
}

TEST(SequenceQueue, SequencesSpreadOverInstancesAndStay) {
  Queue q(sequences(2), 2);
  q.step(1, "a", "s");
  q.step(2, "b", "s");
  EXPECT_EQ(q.run(0, 0), "a");
  EXPECT_EQ(q.run(0, 1), "b");
  q.step(1, "c");
  EXPECT_EQ(q.run(0, 1), "");
  EXPECT_EQ(q.run(0, 0), "c");
}

TEST(SequenceQueue, IdleSequencesLoseTheirSlot) {
  Queue q(sequences(1));
  q.step(1, "a", "s", 0);
  EXPECT_EQ(q.run(0), "a");
  q.step(2, "b", "s", 10 * kUs);
  EXPECT_EQ(q.take(10 * kUs), "");
  EXPECT_EQ(q.source->sweep_at(), 1000 * kUs);
  EXPECT_EQ(q.sweep(999 * kUs), "");
  EXPECT_EQ(q.take(999 * kUs), "");
  EXPECT_EQ(q.sweep(1000 * kUs), "");
  EXPECT_EQ(q.take(1000 * kUs), "b");
  EXPECT_NE(q.step(1, "c", "", 1000 * kUs), "");
}

TEST(SequenceQueue, TheBacklogHonoursTimeouts) {
  Queue q(sequences(1));
  q.step(1, "a", "s");
  auto r = Queue::request("b", 1, 1);
  r->sequence_id = uint64_t{2};
  r->sequence_start = true;
  r->timeout_us = 20;
  q.push(r, 0);
  EXPECT_EQ(q.sweep(20 * kUs), "b:timeout of the corresponding sequence has been expired;");
  EXPECT_NE(q.step(2, "c"), "");
}

TEST(SequenceQueue, OneCancelledRequestEndsItsSequence) {
  Queue q(sequences(1));
  q.step(1, "a", "s");
  q.step(1, "b");
  q.step(2, "c", "s");
  q.sinks[1]->gone = true;
  EXPECT_EQ(q.sweep(0), "a:Request cancelled;b:Request cancelled;");
  EXPECT_EQ(q.take(), "c");
}

TEST(SequenceQueue, DirectWaitsForSlotUtilisation) {
  ModelConfig c = sequences(4);
  c.sequence_batching->direct->max_queue_delay_microseconds = 100;
  c.sequence_batching->direct->minimum_slot_utilization = 0.5F;
  Queue q(c);
  q.step(1, "a", "s", 0);
  EXPECT_EQ(q.take(50 * kUs), "");
  EXPECT_EQ(q.wake, 100 * kUs);
  q.step(2, "b", "s", 60 * kUs);
  EXPECT_EQ(q.run(60 * kUs), "ab");
  q.step(1, "c", "", 70 * kUs);
  EXPECT_EQ(q.run(170 * kUs), "c");
}

TEST(SequenceQueue, OldestTakesWhoWaitsLongest) {
  ModelConfig c = sequences(2);
  c.sequence_batching->direct.reset();
  SequenceBatching::Oldest& oldest = c.sequence_batching->oldest.emplace();
  oldest.max_candidate_sequences = 3;
  oldest.preferred_batch_size = {2};
  oldest.max_queue_delay_microseconds = 100;
  Queue q(c);
  q.step(1, "a", "s", 1);
  q.step(2, "b", "s", 2);
  q.step(3, "c", "s", 3);
  q.step(4, "d", "s", 4);  // no candidate yet
  q.step(1, "e", "e", 5);
  EXPECT_EQ(q.run(5), "ab");
  EXPECT_EQ(q.run(5), "ce");
  EXPECT_EQ(q.take(5), "");  // d is a candidate now, but alone
  EXPECT_EQ(q.wake, 4 + 100 * kUs);
  EXPECT_EQ(q.run(4 + 100 * kUs), "d");
}

TEST(SequenceQueue, StateFollowsTheSequence) {
  ModelConfig c = sequences(2);
  SequenceBatching::State s;
  s.input_name = "S_IN";
  s.output_name = "S_OUT";
  s.data_type = DataType::kInt32;
  s.dims = {-1};
  c.sequence_batching->state.push_back(s);
  Queue q(c);
  q.step(1, "a", "s");
  q.step(1, "b");
  q.step(1, "c", "s");  // a new start: the first value again
  q.take();
  EXPECT_EQ(control(q.last[0], "S_IN"), 0);
  EXPECT_FALSE(q.source->update_state(q.last[0].ticket.get(), scalar_tensor<float>("S_OUT", {1, 1}, 1)).ok());
  EXPECT_FALSE(q.source->update_state(q.last[0].ticket.get(), scalar_tensor<int32_t>("S", {1, 1}, 1)).ok());
  EXPECT_TRUE(q.source->update_state(q.last[0].ticket.get(), vector_tensor<int32_t>("S_OUT", {1, 2}, std::vector<int32_t>{5, 6})).ok());
  EXPECT_TRUE(q.source->is_state("S_OUT") && q.source->hidden("S_OUT"));
  q.end();
  q.take();
  EXPECT_EQ(read_integer(*q.last[0].invocation.request->find_input("S_IN"), 1).value(), 6);
  q.end();
  q.take();
  EXPECT_EQ(q.last[0].invocation.request->find_input("S_IN")->shape, (std::vector<int64_t>{1, 1}));
}

TEST(SequenceQueue, InitialStateFromAFile) {
  ModelConfig c = sequences(1);
  SequenceBatching::State s;
  s.input_name = "S_IN";
  s.output_name = "S_OUT";
  s.data_type = DataType::kInt32;
  s.dims = {2};
  s.initial_state.push_back({.data_type = DataType::kInt32, .dims = {2}, .zero_data = {}, .data_file = "first", .name = "x"});
  c.sequence_batching->state.push_back(s);
  const std::string root = testing::TempDir() + "ingot_states";
  ASSERT_TRUE(make_directories(root + "/initial_state").ok());
  ASSERT_TRUE(write_file(root + "/initial_state/first", std::string("\1\0\0\0\2\0\0\0", 8)).ok());
  auto source = make_batch_source(c, 1, root);
  ASSERT_TRUE(source.ok()) << source.error().message();
  Queue q(config(1));
  q.source = std::move(source).value();
  q.step(1, "a", "s");
  q.take();
  EXPECT_EQ(read_integer(*q.last[0].invocation.request->find_input("S_IN"), 1).value(), 2);
  ASSERT_TRUE(write_file(root + "/initial_state/first", "short").ok());
  EXPECT_NE(make_batch_source(c, 1, root).error().message().find("has 5 bytes, want 8"), std::string::npos);
}

TEST(SequenceQueue, InstancesComeAndGo) {
  Queue q(sequences(1));
  EXPECT_EQ(q.step(1, "a", "s"), "");
  EXPECT_EQ(q.take(), "a");
  q.end();
  EXPECT_EQ(q.step(2, "b", "s"), "");  // no slot
  EXPECT_EQ(q.take(), "");
  ASSERT_TRUE(q.source->resize(2));
  uint64_t wake = 0;
  EXPECT_EQ(q.source->take(1, 0, wake).size(), 1u);
  ASSERT_TRUE(q.source->resize(1));
  EXPECT_FALSE(q.source->left(1));
  EXPECT_FALSE(q.source->can_resize());
  EXPECT_FALSE(q.source->resize(2));
  EXPECT_EQ(q.step(1, "c", "e"), "");
  EXPECT_EQ(q.take(), "c");
  q.end();
  EXPECT_EQ(q.step(3, "d", "s"), "");
  EXPECT_EQ(q.take(), "d");
}

TEST(SequenceQueue, IterativeRequestsAreSequencesOfTheirOwn) {
  ModelConfig c = sequences(1);
  c.sequence_batching->iterative_sequence = true;
  Queue q(c);
  EXPECT_EQ(q.push("a"), "");
  EXPECT_EQ(q.take(), "a");
  EXPECT_EQ(control(q.last[0], "START"), 1);
  const auto first = q.last[0].invocation.request;
  EXPECT_TRUE(first->has_sequence_id());
  EXPECT_TRUE(first->sequence_start);
  q.source->put_back(q.last[0].ticket.get(), q.last[0].invocation, 0);
  EXPECT_EQ(q.take(), "a");
  EXPECT_EQ(control(q.last[0], "START"), 0);
  EXPECT_EQ(q.last[0].invocation.request->sequence_id, first->sequence_id);
  EXPECT_FALSE(q.last[0].invocation.request->sequence_start);
  q.end();
  EXPECT_EQ(q.take(), "");
  EXPECT_EQ(q.push("b"), "");
  EXPECT_EQ(q.take(), "b");
  EXPECT_NE(q.last[0].invocation.request->sequence_id, first->sequence_id);
}

}  // namespace
}  // namespace ingot::server
