// Any bytes as a tiktoken vocabulary. A valid base of all single bytes goes first, so that inputs reach the merges behind it.
#include "text/internal/tokenizer_json.h"
#include "text/load.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::text;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)from_tiktoken(bytes, {.pattern = "."}, "fuzz");
  if (size > 4096) return 0;  // the base makes a whole tokenizer: keep it quick
  static const std::string base = [] {
    std::string lines;
    for (int b = 0; b < 256; ++b) lines += ingot::cat(base64(std::string(1, static_cast<char>(b))), ' ', b, '\n');
    return lines;
  }();
  (void)from_tiktoken(base + std::string(bytes), {.pattern = "."}, "fuzz");
  return 0;
}
