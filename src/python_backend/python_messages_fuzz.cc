// Fuzz target: what a child may write: counters and bytes of its ring, and the messages in it.
#include <algorithm>
#include <cstring>

#include "python_backend/internal/message.h"

namespace {

using namespace ingot;
using namespace ingot::python_backend;

void read_all(Channel& channel, const Json& m) {
  (void)read_response(channel, m);
  (void)read_infer(channel, m);
  (void)read_error(m);
  (void)read_parameters(m);
  if (m.is_object() && m.contains("r") && m["r"].is_array())
    for (const Json& r : m["r"]) (void)read_response(channel, r);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::shared_ptr<Channel> channel = Channel::create("ingot_fuzz").value();
  if (auto m = parse_json({reinterpret_cast<const char*>(data), size}, "message", 32); m.ok()) read_all(*channel, *m);
  constexpr uint64_t kCapacity = 256;
  alignas(8) std::byte memory[kRingCounters + kCapacity] = {};
  RingReader reader(memory, kCapacity);
  std::string payload;
  uint32_t kind = 0;
  while (size >= 9) {  // the child writes somewhere and moves the head, again and again
    uint64_t head = 0;
    memcpy(&head, data, 8);
    const size_t n = std::min<size_t>(data[8], size - 9), at = head % kCapacity;
    memcpy(memory + kRingCounters + at, data + 9, std::min<size_t>(n, kCapacity - at));
    memcpy(memory, &head, 8);
    data += 9 + n;
    size -= 9 + n;
    for (;;) {
      auto got = reader.pop(payload, kind);
      if (!got.ok()) return 0;
      if (!got.value()) break;
      if (auto m = parse_json(payload, "message", 32); m.ok()) read_all(*channel, *m);
    }
  }
  return 0;
}
