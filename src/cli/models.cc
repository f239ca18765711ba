// ingot models: the table of model families, generated from the rows of src/models.
#include <cstdio>

#include "cli/commands.h"
#include "models/architecture.h"

namespace ingot::cli {
namespace {

struct ModelsFlags {
  bool markdown = false;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("markdown", o.markdown, "The table of docs/models.md.");
  }
};

}  // namespace

int run_models(const Args& args) {
  ModelsFlags options;
  OptionTable table("ingot models", "Lists the model families that convert understands.");
  table.add(options);
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "models", args, rest, code)) return code;
  auto joined = [](std::span<const char* const> names) {
    std::string s;
    for (const char* n : names) s += cat(s.empty() ? "" : ", ", n);
    return s;
  };
  if (options.markdown) std::printf("| family | Hugging Face architectures | unified checkpoint |\n|---|---|---|\n");
  else std::printf("%-14s %-60s %s\n", "family", "Hugging Face architectures", "unified checkpoint");
  for (const models::Architecture* a : models::all())
    std::printf(options.markdown ? "| %s | %s | %s |\n" : "%-14s %-60s %s\n", a->family, joined(a->published_names).c_str(), joined(a->unified_names).c_str());
  return 0;
}

}  // namespace ingot::cli
