#include "checkpoint/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::checkpoint;
  const auto config = parse_config({reinterpret_cast<const char*>(data), size}, "input");
  if (!config.ok()) return 0;
  const std::string text = ingot::dump_json(to_json(*config));
  const auto again = parse_config(text, "again");
  CHECK(again.ok() && ingot::dump_json(to_json(*again)) == text, text, again.ok() ? "" : again.error().message());
  return 0;
}
