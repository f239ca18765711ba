// Fuzz target: config.pbtxt texts, and their JSON twins, of any bytes.
#include "repository/config_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto c = ingot::repository::parse_config_text(text, "config.pbtxt"); c.ok()) {
    // What was read prints as JSON that reads back.
    const std::string json = ingot::server::to_json(c->config);
    auto again = ingot::repository::parse_config_json(json, "config");
    (void)again;
  }
  (void)ingot::repository::parse_config_json(text, "config");
  return 0;
}
