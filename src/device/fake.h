// FakeDevice: a device without kernels for the tests of everything above the ABI. It records its calls, fails on request, and "computes"
// ids that depend on the whole context, so that a wrong token, position, page or length shows in the answer.
//
//   FakeDevice fake;  const ingot_device_api* linked[] = {fake.api()};
//   auto device = TRY(open_device("fake", {.linked = linked}));
//   fake.fail_next("run", INGOT_OUT_OF_MEMORY, "no room");
//   EXPECT_EQ(fake.count("prepare"), 1);
//
// Kernel rows: "fake.plain" accepts all ops with raw weights; linear and gated_linear prefer "fake.xor" (bytes flipped) and "fake.tail"
// (reversed behind a 64-byte head), of which the second is the faster one from 8 rows on.
//
// Thread rule: one FakeDevice at a time in a process; its methods from the thread that drives the device.
#pragma once

#include <string>
#include <vector>

#include "ingot/device_abi.h"

namespace ingot::device {

class FakeDevice {
 public:
  FakeDevice();
  ~FakeDevice();
  const ingot_device_api* api() const;

  void fail_next(const std::string& call, int status, const std::string& message);
  int count(const std::string& call) const;
  void set_unified_memory(bool unified);
  void set_activation_dtype(int dtype);  // preferred; f32 unless set
  void set_memory(int64_t total_bytes, int64_t free_bytes);
  void refuse_op(int op);         // kernels() of it is empty
  void refuse_row(const char* row);  // as on another ISA: kernels() does not offer it, pack and unpack still know it

  // State copies and clears of the last run: "0>3 1>2 clear 0".
  const std::string& state_traffic() const;

  // The id that row r of a step gets: a function of the tokens of its sequence so far (by what the pages hold) alone.
  static int expected_id(const std::vector<int32_t>& tokens, int vocab_size);

  struct State;

 private:
  State* state_;
};

}  // namespace ingot::device
