// The way from a raw model to an engine in the user's cache: convert's tensors streamed into build, no checkpoint between.
#include <sys/stat.h>

#include <cstdlib>

#include "base/files.h"
#include "base/hash.h"
#include "base/log.h"
#include "build/build.h"
#include "cli/commands.h"
#include "convert/published.h"
#include "convert/shard.h"
#include "convert/tokenizer.h"
#include "plan/plan_file.h"

namespace ingot::cli {
namespace {

// Path, sizes and times of what lies there: a changed model is compiled anew.
Result<std::string> fingerprint(const std::string& model) {
  std::string text = model;
  auto add = [&](const std::string& path) {
    struct stat st {};
    if (::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode)) text += cat("|", base_name(path), ":", st.st_size, ":", st.st_mtim.tv_sec);
  };
  if (!is_directory(model)) {
    add(model);
    return text;
  }
  for (const std::string& name : TRY(list_directory(model))) add(join_path(model, name));
  return text;
}

std::string cache_root(const CompileOptions& options) {
  if (!options.cache_dir.empty()) return options.cache_dir;
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  return join_path(xdg && *xdg ? xdg : join_path(home && *home ? home : "/tmp", ".cache"), "ingot/engines");
}

}  // namespace

std::string llm_yaml_name() {
  const char* name = std::getenv("LLM_CONFIG_PATH");
  return name && *name ? name : "model.yaml";
}

bool is_engine(const std::string& path) {
  return path.ends_with(".engine") || (is_directory(path) && !plan::engine_in(path).empty());
}

Result<std::string> engine_of(const std::string& model, const CompileOptions& options, const runtime::RuntimeOptions& runtime) {
  if (!file_exists(model)) return Error(Code::kNotFound, cat(model, " does not exist; want an engine folder, a Hugging Face directory or a GGUF file"));
  if (is_engine(model)) return model;
  const std::string key = cat(TRY(fingerprint(model)), "|", options.dtype, "|", options.weight_only_precision, "|", runtime.device, "|", version());
  char name[20];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(hash_text(key)));
  const std::string directory = join_path(cache_root(options), cat(base_name(model), "-", name));
  if (file_exists(join_path(directory, "rank0.engine"))) return directory;
  log_info("compiling ", model, " into ", directory, " (once)");
  convert::PublishedOptions published;
  published.dtype = options.dtype;
  if (options.weight_only_precision == "int8") published.weight_only_bits = 8;
  else if (options.weight_only_precision == "int4") published.weight_only_bits = 4;
  else if (!options.weight_only_precision.empty())
    return Error(Code::kUnsupported, cat("--weight-only-precision is '", options.weight_only_precision, "', want int8 or int4"));
  auto device = TRY(device::open_device(runtime.device, {.linked = linked_devices(), .plugin_path = runtime.plugin_path}));
  build::BuildInput input;
  std::unique_ptr<convert::PublishedCheckpoint> source;
  std::unique_ptr<convert::JoinedCheckpoint> unified;
  if (convert::is_unified(model)) {
    unified = TRY(convert::JoinedCheckpoint::open(model));
    input.config = unified->config();
    input.tensors = unified.get();
    input.tokenizer = TRY(convert::checkpoint_tokenizer(model));
  } else {
    source = TRY(convert::PublishedCheckpoint::open(model, published));
    input.config = source->config();
    input.tensors = source.get();
    input.tokenizer = TRY(source->tokenizer());
  }
  build::BuildOptions build;
  build.no_timing = true;  // a first answer soon; `ingot build` times the kernels
  TRY(make_directories(directory));
  TRY(build::build_engine(input, build, *device, directory));
  return directory;
}

}  // namespace ingot::cli
