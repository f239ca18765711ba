// Channel: the server's end of the shared memory of one child: three message rings and two tensor arenas in one sealed memfd.
//
//   std::shared_ptr<Channel> c = TRY(Channel::create("prefix_m_0_0"));
//   TRY(c->send_command(json));                      // for execute and lifecycle; send_event: everything that comes meanwhile
//   while (TRY(c->receive(text))) ...                // replies; an error means that the child broke the protocol
//
// The region starts with a page for nothing, then the rings and the arenas of Layout. What the child writes may change at any time: messages are copied out before
// they are parsed, positions are kept on our side, and offsets are checked against the region. Thread rule: send_*, tensors and
// give_back from any thread; receive and flush from the instance's thread.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "server/infer.h"

namespace ingot::python_backend {

struct Layout {
  uint64_t size = 0, ring_bytes = 0, arena_bytes = 0;
  uint64_t commands = 0, events = 0, replies = 0;      // offsets of the rings
  uint64_t server_arena = 0, child_arena = 0;
};
constexpr uint64_t kRingCounters = 128;  // head @0, tail @64, waiting @96
Layout make_layout(uint64_t ring_bytes, uint64_t arena_bytes);

// One direction of messages: {length u32, kind u32, payload, padding to 8}. Only positions that passed the checks are followed.
class RingWriter {
 public:
  RingWriter(std::byte* base, uint64_t capacity) : base_(base), capacity_(capacity) {}
  bool push(std::string_view payload, uint32_t kind);  // false: no room
  void set_waiting(bool waiting);

 private:
  std::byte* base_;
  uint64_t capacity_, head_ = 0;
};

class RingReader {
 public:
  RingReader(std::byte* base, uint64_t capacity) : base_(base), capacity_(capacity) {}
  Result<bool> pop(std::string& payload, uint32_t& kind);  // false: nothing there

 private:
  std::byte* base_;
  uint64_t capacity_, tail_ = 0;
};

// The server's arena: who holds which block is known here alone. A block is born held once, by the child.
class Arena {
 public:
  Arena(uint64_t start, uint64_t size) : free_{{start, size}} {}
  static constexpr uint64_t kNone = ~uint64_t{0};
  uint64_t allocate(uint64_t bytes);           // kNone: no room
  bool hold(uint64_t offset, uint64_t bytes, uint64_t& block);  // the block around a range, held once more; false: not inside one block of the child's
  // Drops a hold of ours. True: the block is free, and `bytes` are its size.
  bool drop(uint64_t block, uint64_t& bytes);
  bool return_by_child(uint64_t block, uint64_t& bytes);  // ignores what the child does not hold
  size_t blocks() const;

 private:
  struct Block {
    uint64_t bytes = 0;
    uint32_t holds = 0;
    bool childs = true;
  };
  bool release(std::map<uint64_t, Block>::iterator block, uint64_t& bytes);
  mutable std::mutex mutex_;
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes, coalesced
  std::map<uint64_t, Block> blocks_;
};

class Channel : public std::enable_shared_from_this<Channel> {
 public:
  static Result<std::shared_ptr<Channel>> create(const std::string& name);
  ~Channel();
  Channel(const Channel&) = delete;

  const Layout& layout() const { return layout_; }
  int region_fd() const { return region_; }
  int commands_fd() const { return commands_event_; }
  int events_fd() const { return events_event_; }
  int replies_fd() const { return replies_event_; }

  // `json` is a whole object; blocks to return to the child are added to it. Too large for the ring: goes through the arena.
  Status send_command(std::string json);
  void send_event(std::string json);
  void flush();                             // events that found the ring full
  Result<bool> receive(std::string& json);  // false: nothing there

  // Tensors. A block of ours for `bytes`, for the child to read and return.
  Result<uint64_t> allocate(uint64_t bytes);
  std::byte* at(uint64_t offset) { return base_ + offset; }
  void return_by_child(uint64_t block);
  // Memory that the child names: borrowed while the pointer lives. An error when it is not inside its arena or a block that it holds.
  Result<std::shared_ptr<const void>> borrow(uint64_t offset, uint64_t bytes);
  void unused(uint64_t block);  // takes back a block that was never sent
  uint64_t resident_bytes() const;

 private:
  Channel() = default;
  Result<std::string> packed(std::string json, uint32_t& kind);
  void give_back(uint64_t offset, uint64_t bytes);
  void trim(uint64_t offset, uint64_t bytes);
  Layout layout_;
  std::byte* base_ = nullptr;
  int region_ = -1, commands_event_ = -1, events_event_ = -1, replies_event_ = -1;
  std::unique_ptr<RingWriter> commands_, events_;
  std::unique_ptr<RingReader> replies_;
  std::unique_ptr<Arena> arena_;
  std::mutex send_mutex_;
  std::deque<std::pair<std::string, uint32_t>> backlog_;  // events, packed
  std::mutex returned_mutex_;
  std::vector<uint64_t> returned_;  // the child's blocks that we no longer need
  std::atomic<uint64_t> kept_{0};   // bytes of free large blocks whose pages are still there
};

}  // namespace ingot::python_backend
