// convert(): a published checkpoint becomes a unified checkpoint on disk.
//
//   ConvertOptions o;  o.model_dir = "llama3-8b";  o.output_dir = "tllm_checkpoint";  o.dtype = "bfloat16";
//   TRY(convert(o, [](int done, int all, const std::string& tensor) { ... }));
//
// Thread rule: one call per output directory; `progress` is called from one thread at a time.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"

namespace ingot::convert {

struct ConvertOptions {
  std::string model_dir, output_dir;
  std::string dtype = "auto";
  std::string model_version;
};

using ConvertProgress = std::function<void(int done, int all, const std::string& tensor)>;

Status convert(const ConvertOptions& options, const ConvertProgress& progress = {});

}  // namespace ingot::convert
