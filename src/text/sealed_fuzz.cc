// Any bytes as a sealed tokenizer: an error, or a tokenizer that encodes and decodes.
#include "text/detokenizer.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::text;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto sealed = deserialize(bytes);
  if (!sealed.ok()) {
    // The tokenizer.json alone, so that the fuzzer need not find the frame.
    auto t = Tokenizer::create({.tokenizer_json = std::string(bytes), .info = {}});
    (void)t.ok();
    return 0;
  }
  if (deserialize(serialize(*sealed)).value() != *sealed) std::abort();
  auto t = Tokenizer::create(*sealed);
  if (!t.ok()) return 0;
  auto ids = (*t)->encode("Hello, world! \xff\n", true);
  if (ids.ok()) {
    const std::string whole = (*t)->decode(*ids, false);
    Detokenizer d(*t, {.skip_special = false});
    std::string joined;
    for (int32_t id : *ids) joined += d.push(id);
    if (joined + d.finish() != whole) std::abort();
  }
  return 0;
}
