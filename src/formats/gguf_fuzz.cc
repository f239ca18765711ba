#include "formats/gguf.h"

#include "formats/internal/fuzz_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::formats;
  const auto g = GgufFile::open(fuzz_file(data, size));
  if (!g.ok()) return 0;
  read_all(**g);
  (void)(*g)->vocabulary().ok();
  for (const std::string& key : (*g)->keys()) {
    (void)(*g)->integer(key).ok();
    (void)(*g)->number(key).ok();
    (void)(*g)->string(key).ok();
  }
  return 0;
}
