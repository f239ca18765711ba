#include "formats/safetensors.h"

#include "formats/internal/fuzz_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::formats;
  Metadata metadata;
  if (auto source = open_safetensors(fuzz_file(data, size), &metadata); source.ok()) read_all(**source);
  return 0;
}
