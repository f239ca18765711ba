#include "python_backend/internal/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace ingot::python_backend {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kRingBytes = 256 << 10;
// Address space, not memory: pages come with their first use. Halved until the machine grants it.
constexpr uint64_t kMostArenaBytes = uint64_t{64} << 30;
constexpr uint64_t kLeastArenaBytes = uint64_t{64} << 20;
constexpr uint32_t kInline = 0, kSpilled = 1;
constexpr uint64_t kLarge = 1 << 20;        // blocks whose pages may be given back to the system
constexpr uint64_t kKeepFree = 64 << 20;    // of which so many bytes stay resident, for speed
constexpr size_t kReturnAtOnce = 32;        // blocks, or one large one; fewer wait for the next message

uint64_t load(const std::byte* p) { return __atomic_load_n(reinterpret_cast<const uint64_t*>(p), __ATOMIC_ACQUIRE); }
void store(std::byte* p, uint64_t v) { __atomic_store_n(reinterpret_cast<uint64_t*>(p), v, __ATOMIC_RELEASE); }

Error protocol_error(std::string_view what) { return Error(Code::kInternal, cat("the child broke the message protocol: ", what)); }

void wake(int fd) {
  const uint64_t one = 1;
  if (::write(fd, &one, sizeof one) < 0) return;  // the counter is at its end only if nobody reads: nothing to wake
}

Error system_error(std::string_view what) { return Error(Code::kInternal, cat(what, ": ", strerror(errno))); }

// The child's descriptors are dup2'ed to 3 and following; sources in that range would be overwritten.
int above(int fd) {
  if (fd < 0 || fd >= 16) return fd;
  const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, 16);
  ::close(fd);
  return moved;
}

}  // namespace

Layout make_layout(uint64_t ring_bytes, uint64_t arena_bytes) {
  Layout l;
  l.ring_bytes = ring_bytes;
  l.arena_bytes = arena_bytes;
  const uint64_t ring = (kRingCounters + ring_bytes + kPage - 1) / kPage * kPage;
  l.commands = kPage;
  l.events = l.commands + ring;
  l.replies = l.events + ring;
  l.server_arena = l.replies + ring;
  l.child_arena = l.server_arena + arena_bytes;
  l.size = l.child_arena + arena_bytes;
  return l;
}

bool RingWriter::push(std::string_view payload, uint32_t kind) {
  const uint64_t need = 8 + (payload.size() + 7) / 8 * 8;
  const uint64_t used = head_ - load(base_ + 64);
  if (used > capacity_ || need > capacity_ - used) return false;  // used > capacity_: the child wrote nonsense, and will not be served
  std::byte* data = base_ + kRingCounters;
  const auto put = [&](uint64_t at, const void* from, uint64_t n) {
    at %= capacity_;
    const uint64_t first = std::min(n, capacity_ - at);
    memcpy(data + at, from, first);
    if (n > first) memcpy(data, static_cast<const std::byte*>(from) + first, n - first);
  };
  const uint32_t header[2] = {static_cast<uint32_t>(payload.size()), kind};
  put(head_, header, 8);
  if (!payload.empty()) put(head_ + 8, payload.data(), payload.size());
  head_ += need;
  store(base_, head_);
  return true;
}

void RingWriter::set_waiting(bool waiting) { store(base_ + 96, waiting ? 1 : 0); }

Result<bool> RingReader::pop(std::string& payload, uint32_t& kind) {
  const uint64_t available = load(base_) - tail_;
  if (available == 0) return false;
  if (available > capacity_ || available < 8 || available % 8 != 0)
    return protocol_error(cat(available, " bytes in a ring of ", capacity_));
  const std::byte* data = base_ + kRingCounters;
  uint32_t header[2];
  memcpy(header, data + tail_ % capacity_, 8);  // positions are multiples of 8, and so is the capacity
  const uint64_t length = header[0], padded = (length + 7) / 8 * 8;
  if (padded > available - 8) return protocol_error(cat("a message of ", length, " bytes where ", available - 8, " are"));
  payload.resize(length);
  const uint64_t at = (tail_ + 8) % capacity_, first = std::min(length, capacity_ - at);
  memcpy(payload.data(), data + at, first);
  if (length > first) memcpy(payload.data() + first, data, length - first);
  kind = header[1];
  tail_ += 8 + padded;
  store(base_ + 64, tail_);
  return true;
}

// Arena.

uint64_t Arena::allocate(uint64_t bytes) {
  const uint64_t step = bytes >= kPage ? kPage : 64;
  if (bytes > ~uint64_t{0} - step) return kNone;
  const uint64_t want = std::max(step, (bytes + step - 1) / step * step);
  std::lock_guard lock(mutex_);
  for (auto it = free_.begin(); it != free_.end(); ++it) {  // lowest address first: what is resident is used again
    const uint64_t start = (it->first + step - 1) / step * step, end = it->first + it->second;
    if (start > end || end - start < want) continue;
    const uint64_t before = start - it->first, after = end - start - want;
    if (before != 0) it->second = before;
    else free_.erase(it);
    if (after != 0) free_.emplace(start + want, after);
    blocks_.emplace(start, Block{want, 1, true});
    return start;
  }
  return kNone;
}

bool Arena::hold(uint64_t offset, uint64_t bytes, uint64_t& block) {
  std::lock_guard lock(mutex_);
  auto it = blocks_.upper_bound(offset);
  if (it == blocks_.begin()) return false;
  --it;
  const uint64_t inside = offset - it->first;
  if (!it->second.childs || inside > it->second.bytes || bytes > it->second.bytes - inside) return false;
  ++it->second.holds;
  block = it->first;
  return true;
}

bool Arena::release(std::map<uint64_t, Block>::iterator it, uint64_t& bytes) {
  if (--it->second.holds != 0) return false;
  uint64_t start = it->first, size = it->second.bytes;
  bytes = size;
  blocks_.erase(it);
  auto next = free_.lower_bound(start);
  if (next != free_.end() && next->first == start + size) {
    size += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == start) {
      previous->second += size;
      return true;
    }
  }
  free_.emplace(start, size);
  return true;
}

bool Arena::drop(uint64_t block, uint64_t& bytes) {
  std::lock_guard lock(mutex_);
  auto it = blocks_.find(block);
  CHECK(it != blocks_.end(), "block ", block, " of the server's arena is not known");
  return release(it, bytes);
}

bool Arena::return_by_child(uint64_t block, uint64_t& bytes) {
  std::lock_guard lock(mutex_);
  auto it = blocks_.find(block);
  if (it == blocks_.end() || !it->second.childs) return false;
  it->second.childs = false;
  return release(it, bytes);
}

size_t Arena::blocks() const {
  std::lock_guard lock(mutex_);
  return blocks_.size();
}

// Channel.

Result<std::shared_ptr<Channel>> Channel::create(const std::string& name) {
  std::shared_ptr<Channel> c(new Channel);
  c->region_ = above(::memfd_create(name.substr(0, 200).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (c->region_ < 0) return system_error("cannot make a shared memory region for a Python model");
  bool mapped = false;
  for (uint64_t arena = kMostArenaBytes; arena >= kLeastArenaBytes && !mapped; arena /= 2) {
    c->layout_ = make_layout(kRingBytes, arena);
    if (::ftruncate(c->region_, static_cast<off_t>(c->layout_.size)) != 0) continue;
    void* p = ::mmap(nullptr, c->layout_.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, c->region_, 0);
    if (p == MAP_FAILED) continue;
    c->base_ = static_cast<std::byte*>(p);
    ::madvise(p, c->layout_.size, MADV_DONTDUMP);
    mapped = true;
  }
  if (!mapped) return system_error("cannot map a shared memory region for a Python model");
  // The child cannot take the pages away under our feet.
  if (::fcntl(c->region_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return system_error("cannot seal a shared memory region");
  for (int* fd : {&c->commands_event_, &c->events_event_, &c->replies_event_}) {
    *fd = above(::eventfd(0, EFD_CLOEXEC));
    if (*fd < 0) return system_error("cannot make an eventfd for a Python model");
  }
  const Layout& l = c->layout_;
  c->commands_ = std::make_unique<RingWriter>(c->base_ + l.commands, l.ring_bytes);
  c->events_ = std::make_unique<RingWriter>(c->base_ + l.events, l.ring_bytes);
  c->replies_ = std::make_unique<RingReader>(c->base_ + l.replies, l.ring_bytes);
  c->arena_ = std::make_unique<Arena>(l.server_arena, l.arena_bytes);
  return c;
}

Channel::~Channel() {
  if (base_ != nullptr) ::munmap(base_, layout_.size);
  for (int fd : {region_, commands_event_, events_event_, replies_event_})
    if (fd >= 0) ::close(fd);
}

Result<std::string> Channel::packed(std::string json, uint32_t& kind) {
  {
    std::lock_guard lock(returned_mutex_);
    if (!returned_.empty()) {
      json.pop_back();
      json += json.size() > 1 ? ",\"free\":[" : "\"free\":[";
      for (size_t i = 0; i < returned_.size(); ++i) {
        if (i != 0) json += ',';
        ingot::internal::append(json, returned_[i]);
      }
      json += "]}";
      returned_.clear();
    }
  }
  kind = kInline;
  if (json.size() <= layout_.ring_bytes / 4) return json;
  const uint64_t offset = TRY(allocate(json.size()));
  memcpy(at(offset), json.data(), json.size());
  const uint64_t reference[2] = {offset, json.size()};
  kind = kSpilled;
  return std::string(reinterpret_cast<const char*>(reference), sizeof reference);
}

Status Channel::send_command(std::string json) {
  uint32_t kind = 0;
  std::lock_guard lock(send_mutex_);
  const std::string payload = TRY(packed(std::move(json), kind));
  // One command at a time is under way, and none is larger than a quarter of the ring.
  if (!commands_->push(payload, kind)) return protocol_error("its ring of commands is full");
  wake(commands_event_);
  return {};
}

void Channel::send_event(std::string json) {
  uint32_t kind = 0;
  std::lock_guard lock(send_mutex_);
  auto payload = packed(std::move(json), kind);
  if (!payload.ok()) return;  // no room for a message of more than 64 KiB: its reader is dead or far behind
  if (!backlog_.empty() || !events_->push(*payload, kind)) {
    backlog_.emplace_back(std::move(*payload), kind);
    events_->set_waiting(true);
  }
  wake(events_event_);
}

void Channel::flush() {
  std::lock_guard lock(send_mutex_);
  if (backlog_.empty()) return;
  while (!backlog_.empty() && events_->push(backlog_.front().first, backlog_.front().second)) backlog_.pop_front();
  events_->set_waiting(!backlog_.empty());
  wake(events_event_);
}

Result<bool> Channel::receive(std::string& json) {
  uint32_t kind = 0;
  if (!TRY(replies_->pop(json, kind))) return false;
  if (kind == kInline) return true;
  if (kind != kSpilled || json.size() != 16) return protocol_error(cat("message kind ", kind, " with ", json.size(), " bytes"));
  uint64_t reference[2];
  memcpy(reference, json.data(), sizeof reference);
  const std::shared_ptr<const void> block = TRY(borrow(reference[0], reference[1]));
  json.assign(reinterpret_cast<const char*>(at(reference[0])), reference[1]);
  return true;
}

Result<uint64_t> Channel::allocate(uint64_t bytes) {
  const uint64_t offset = arena_->allocate(bytes);
  if (offset == Arena::kNone) return Error(Code::kUnavailable, cat("no room for ", bytes, " bytes in the shared memory of the model instance"));
  if (bytes >= kLarge) kept_ -= std::min<uint64_t>(kept_, bytes);
  return offset;
}

void Channel::trim(uint64_t offset, uint64_t bytes) {
  if (bytes < kLarge) return;
  if (kept_ + bytes <= kKeepFree) {
    kept_ += bytes;
    return;
  }
  ::fallocate(region_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes));
}

void Channel::return_by_child(uint64_t block) {
  uint64_t bytes = 0;
  if (arena_->return_by_child(block, bytes)) trim(block, bytes);
}

void Channel::unused(uint64_t block) { return_by_child(block); }

void Channel::give_back(uint64_t offset, uint64_t bytes) {
  bool now = bytes >= kLarge;
  {
    std::lock_guard lock(returned_mutex_);
    returned_.push_back(offset);
    now |= returned_.size() >= kReturnAtOnce;
  }
  if (now) send_event("{\"m\":\"free\"}");
}

Result<std::shared_ptr<const void>> Channel::borrow(uint64_t offset, uint64_t bytes) {
  const auto inside = [&](uint64_t start) {
    return offset >= start && offset - start <= layout_.arena_bytes && bytes <= layout_.arena_bytes - (offset - start);
  };
  // A range that the child claims but never wrote would become memory when we read it.
  if (bytes > kLarge && bytes > resident_bytes()) return protocol_error(cat("a tensor of ", bytes, " bytes in a region that has ", resident_bytes()));
  auto self = shared_from_this();
  if (inside(layout_.child_arena))
    return std::shared_ptr<const void>(at(offset), [self, offset, bytes](const void*) { self->give_back(offset, bytes); });
  uint64_t block = 0;
  if (inside(layout_.server_arena) && arena_->hold(offset, bytes, block))
    return std::shared_ptr<const void>(at(offset), [self, block](const void*) {
      uint64_t freed = 0;
      if (self->arena_->drop(block, freed)) self->trim(block, freed);
    });
  return protocol_error(cat("a range of ", bytes, " bytes at ", offset, " outside its memory"));
}

uint64_t Channel::resident_bytes() const {
  struct stat st {};
  return ::fstat(region_, &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
}

}  // namespace ingot::python_backend
