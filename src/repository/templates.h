// Model directories of the classic LLM repositories as templates with ${placeholders}, and the filling of them.
//
//   for (const TemplateFile& f : template_files(TemplateLayout::kInflightBatcher)) write(f.path, f.text);
//   std::string text = TRY(fill_template(old, "triton_max_batch_size:8,engine_dir:/engines/m", path));
//
// Thread rule: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ingot::repository {

enum class TemplateLayout { kInflightBatcher, kGpt, kLlmapi };
struct TemplateFile {
  std::string path;  // "preprocessing/config.pbtxt", "tensorrt_llm/1/model.yaml"
  std::string text;
};
std::vector<TemplateFile> template_files(TemplateLayout layout);

// Python's string.Template over `text`: ${key} and $key of the substitutions "key:value,key2:value2" (a backslash keeps ',' and ':')
// and of the presets max_queue_size:0 and max_queue_delay_microseconds:0 are replaced, `$$` becomes `$`, the rest stays. A key without
// a place in `text` is an error that names `file` and the nearest one.
Result<std::string> fill_template(std::string_view text, std::string_view substitutions, std::string_view file);

}  // namespace ingot::repository
