// Fuzzes the engine file: once as it is, once as the text of a plan section inside a sound frame (so that mutations reach the checks).
#include <cstdint>

#include "plan/internal/codec.h"
#include "plan/plan_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  (void)ingot::plan::parse_plan(bytes, "fuzz", /*check_hashes=*/false);
  auto plan = ingot::plan::internal::decode({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (plan.ok() && ingot::plan::validate(*plan).ok())
    for (const ingot::plan::Step& s : plan->steps) (void)ingot::plan::describe_step(*plan, s);
  return 0;
}
