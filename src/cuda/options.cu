#include "cuda/options.h"

#include "base/json.h"

namespace ingot::cuda {

Result<DeviceOptions> read_options(const char* text) {
  DeviceOptions o;
  if (!text || !*text) return o;
  const char* what = "options of device cuda";
  const Json json = TRY(parse_json(text, what));
  o.deterministic = TRY(get_or<bool>(json, "deterministic", false, what));
  return o;
}

}  // namespace ingot::cuda
