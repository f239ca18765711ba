#include "formats/internal/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ingot::formats::Pickle p(std::as_bytes(std::span(data, size)), "input");
  while (p.at() < size) {  // a legacy file holds several
    const auto root = p.load();
    if (!root.ok()) break;
    (void)p.tensors(*root).ok();
  }
  return 0;
}
