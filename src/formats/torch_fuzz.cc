#include "formats/torch.h"

#include "formats/internal/fuzz_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::formats;
  if (auto source = open_torch(fuzz_file(data, size)); source.ok()) read_all(**source);
  return 0;
}
