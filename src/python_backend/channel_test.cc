#include "python_backend/internal/channel.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "python_backend/internal/message.h"

namespace ingot::python_backend {
namespace {

struct RingMemory {
  explicit RingMemory(uint64_t capacity) : bytes(kRingCounters + capacity), capacity(capacity) {}
  std::vector<std::byte> bytes;
  uint64_t capacity;
  uint64_t& head() { return *reinterpret_cast<uint64_t*>(bytes.data()); }
};

TEST(Ring, CarriesMessagesOfAllLengthsAroundItsEnd) {
  RingMemory memory(256);
  RingWriter writer(memory.bytes.data(), 256);
  RingReader reader(memory.bytes.data(), 256);
  std::string got;
  uint32_t kind = 0;
  EXPECT_FALSE(reader.pop(got, kind).value());
  for (size_t n = 0; n < 500; ++n) {
    const std::string text(n % 120, static_cast<char>('a' + n % 26));
    ASSERT_TRUE(writer.push(text, static_cast<uint32_t>(n)));
    ASSERT_TRUE(writer.push("second", 7));
    ASSERT_TRUE(reader.pop(got, kind).value());
    EXPECT_EQ(got, text);
    EXPECT_EQ(kind, n);
    ASSERT_TRUE(reader.pop(got, kind).value());
    EXPECT_EQ(got, "second");
  }
}

TEST(Ring, RefusesWhatDoesNotFitUntilThereIsRoom) {
  RingMemory memory(64);
  RingWriter writer(memory.bytes.data(), 64);
  RingReader reader(memory.bytes.data(), 64);
  EXPECT_FALSE(writer.push(std::string(57, 'x'), 0));
  EXPECT_TRUE(writer.push(std::string(56, 'x'), 0));
  EXPECT_FALSE(writer.push("", 0));
  std::string got;
  uint32_t kind = 0;
  EXPECT_TRUE(reader.pop(got, kind).value());
  EXPECT_TRUE(writer.push("", 0));
}

TEST(Ring, FollowsNoPositionThatTheChildMadeUp) {
  std::string got;
  uint32_t kind = 0;
  for (uint64_t head : {uint64_t{1} << 60, ~uint64_t{0}, uint64_t{4}, uint64_t{12}, uint64_t{264}}) {
    RingMemory memory(256);
    RingReader reader(memory.bytes.data(), 256);
    memory.head() = head;
    EXPECT_FALSE(reader.pop(got, kind).ok()) << head;
  }
  RingMemory memory(256);
  RingReader reader(memory.bytes.data(), 256);
  const uint32_t header[2] = {200, 0};
  memcpy(memory.bytes.data() + kRingCounters, header, 8);
  memory.head() = 64;  // the message would reach beyond what was written
  auto r = reader.pop(got, kind);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().message(), "the child broke the message protocol: a message of 200 bytes where 56 are");
  RingWriter writer(memory.bytes.data(), 256);
  *reinterpret_cast<uint64_t*>(memory.bytes.data() + 64) = 1000;  // read more than was written
  EXPECT_FALSE(writer.push("x", 0));
}

TEST(Arena, ReusesAndJoinsWhatIsFree) {
  Arena arena(4096, 64 << 10);
  const uint64_t a = arena.allocate(100), b = arena.allocate(5000), c = arena.allocate(1);
  EXPECT_EQ(a, 4096u);
  EXPECT_EQ(b % 4096, 0u);
  EXPECT_EQ(c, a + 128);
  EXPECT_EQ(arena.allocate(64 << 10), Arena::kNone);
  EXPECT_EQ(arena.allocate(~uint64_t{0}), Arena::kNone);
  uint64_t bytes = 0;
  for (uint64_t block : {b, a, c}) EXPECT_TRUE(arena.return_by_child(block, bytes));
  EXPECT_EQ(arena.blocks(), 0u);
  EXPECT_EQ(arena.allocate(64 << 10), 4096u);  // the holes have become one
}

TEST(Arena, AHeldBlockOutlivesTheChildsReturn) {
  Arena arena(0, 1 << 20);
  const uint64_t a = arena.allocate(1000);
  uint64_t block = 7, bytes = 0;
  EXPECT_FALSE(arena.hold(a + 500, 600, block));  // reaches over its end
  EXPECT_FALSE(arena.hold(a + 2000, 1, block));
  EXPECT_TRUE(arena.hold(a + 500, 500, block));
  EXPECT_EQ(block, a);
  EXPECT_FALSE(arena.return_by_child(a, bytes));
  EXPECT_FALSE(arena.return_by_child(a, bytes));  // twice, and of a block that never was: ignored
  EXPECT_FALSE(arena.return_by_child(a + 64, bytes));
  EXPECT_FALSE(arena.hold(a, 1, block));  // no longer the child's to name
  EXPECT_EQ(arena.blocks(), 1u);
  EXPECT_TRUE(arena.drop(a, bytes));
  EXPECT_EQ(arena.blocks(), 0u);
}

std::string refused(Channel& channel, const char* json) {
  auto t = read_tensor(channel, parse_json(json, "test").value());
  return t.ok() ? "accepted" : t.error().message();
}

TEST(Message, TensorsGoThereAndComeBack) {
  auto channel = Channel::create("ingot_test").value();
  server::InferResponse r;
  r.final = true;
  r.outputs.push_back(server::vector_tensor<float>("A", {2, 2}, std::vector<float>{1, 2, 3, 4}));
  r.outputs.push_back(server::string_tensor("B", {1}, {"text"}));
  r.outputs.push_back(server::vector_tensor<float>("C", {0}, {}));
  r.parameters = {{"i", int64_t{5}}, {"d", 2.0}, {"s", std::string("x")}, {"b", true}};
  const Json m = parse_json(write_answer(*channel, 3, r), "test").value();
  EXPECT_EQ(m["c"], 3);
  auto back = read_response(*channel, m);
  ASSERT_TRUE(back.ok()) << back.error().message();
  ASSERT_EQ(back->outputs.size(), 3u);
  EXPECT_EQ(server::read_number(back->outputs[0], 3).value(), 4);
  EXPECT_EQ(server::read_strings(back->outputs[1]).value()[0], "text");
  EXPECT_EQ(back->outputs[2].shape, std::vector<int64_t>{0});
  EXPECT_EQ(server::str(*server::find_parameter(back->parameters, "d")), "2");
  EXPECT_TRUE(std::holds_alternative<double>(*server::find_parameter(back->parameters, "d")));
  EXPECT_TRUE(std::holds_alternative<int64_t>(*server::find_parameter(back->parameters, "i")));
}

TEST(Message, RefusesTensorsOutsideTheMemory) {
  auto channel = Channel::create("ingot_test").value();
  const Layout& l = channel->layout();
  EXPECT_NE(refused(*channel, R"(["A","FP32",[1],0,4])").find("outside its memory"), std::string::npos);  // the header
  EXPECT_NE(refused(*channel, cat(R"(["A","FP32",[1],)", l.server_arena, ",4]").c_str()).find("outside its memory"), std::string::npos);  // no block there
  EXPECT_NE(refused(*channel, cat(R"(["A","FP32",[4],)", l.size - 8, ",16]").c_str()).find("outside its memory"), std::string::npos);
  EXPECT_NE(refused(*channel, cat(R"(["A","UINT8",[2000000],)", l.child_arena, ",2000000]").c_str()).find("in a region that has"), std::string::npos);
  EXPECT_EQ(refused(*channel, cat(R"(["A","FP32",[1],)", l.child_arena, ",4]").c_str()), "accepted");
  EXPECT_NE(refused(*channel, R"(["A","FP32",[2],0,4])").find("has 4 bytes, want 8"), std::string::npos);
  EXPECT_NE(refused(*channel, R"(["A","FP32",[4611686018427387904,4],0,4])").find("want 0"), std::string::npos);
  EXPECT_NE(refused(*channel, R"(["A","FP32",[-1],0,4])").find("no integer of at least 0"), std::string::npos);
  EXPECT_NE(refused(*channel, R"(["A","STRING",[1],0,4])").find("unknown type 'STRING'"), std::string::npos);
  EXPECT_NE(refused(*channel, R"(["A","FP32",[1],0])").find("want a tensor as"), std::string::npos);
  EXPECT_NE(refused(*channel, R"({})").find("want a tensor as"), std::string::npos);
  const uint32_t length = 100;  // a string longer than its tensor
  memcpy(channel->at(l.child_arena), &length, 4);
  EXPECT_NE(refused(*channel, cat(R"(["A","BYTES",[1],)", l.child_arena, ",8]").c_str()).find("length 100 of element 0"), std::string::npos);
}

}  // namespace
}  // namespace ingot::python_backend
