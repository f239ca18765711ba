// Any bytes as a sentencepiece model: an error or a model whose tokenizer.json can be written.
#include "text/internal/sentencepiece_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto model = ingot::text::parse_sentencepiece(bytes, "fuzz");
  if (model.ok()) (void)ingot::text::tokenizer_json(*model, {}, true, true, "fuzz");
  return 0;
}
