// The commands of `ingot`: a table from name to function, and what they share.
//
//   int run_build(Args args);       // one file each: reads flags into the library's option structs, makes one library call, prints
//
// A command returns the process's exit code: 0 done, 1 failed, 2 wrong use. Thread rule: the main thread.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "base/result.h"
#include "device/device.h"
#include "runtime/runtime.h"

namespace ingot::cli {

using Args = std::vector<std::string>;

struct Command {
  const char* name;
  const char* summary;  // one line of `ingot --help`
  int (*run)(const Args& args);
};
std::span<const Command> commands();

int run_convert(const Args& args);
int run_build(const Args& args);
int run_run(const Args& args);
int run_chat(const Args& args);
int run_serve(const Args& args);
int run_inspect(const Args& args);
int run_models(const Args& args);
int run_doctor(const Args& args);
int run_bench(const Args& args);
int run_bench_manager(const Args& args);
int run_bench_dataset(const Args& args);
int run_quantize(const Args& args);
int run_summarize(const Args& args);
int run_aliases(const Args& args);
int run_repo(const Args& args);
int run_launch(const Args& args);
int run_client(const Args& args);

// Prints an error with the command's name in front and returns its exit code.
int fail(const char* command, const Error& error);

// Reads flags; prints help and returns false when --help (or -h) is among them. On a wrong flag prints the error; `exit_code` is set
// in both cases. Flags without an effect are said once.
bool read_flags(OptionTable& table, const char* command, const Args& args, std::vector<std::string>& rest, int& exit_code);

device::LinkedDevices linked_devices();  // the devices that are part of this program
const char* version();

// What the convert step of a raw model needs to become an engine, used by run, chat and serve: the engine of a model directory or GGUF
// file, built into the cache on first use. An engine directory is returned as it is.
struct CompileOptions {
  std::string dtype = "auto";
  std::string weight_only_precision;  // "", "int8", "int4"
  std::string cache_dir;              // "": ~/.cache/ingot or $XDG_CACHE_HOME/ingot

  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("dtype", o.dtype, "Type of unquantised weights when a raw model is compiled: auto, float32, bfloat16, float16.");
    v("weight-only-precision", o.weight_only_precision, "Quantise linear weights when a raw model is compiled: int8 or int4.");
    v("cache-dir", o.cache_dir, "Where compiled models are kept; empty: the user's cache folder.");
  }
};
bool is_engine(const std::string& path);
// Name of the LLM API layout's yaml: LLM_CONFIG_PATH, or model.yaml.
std::string llm_yaml_name();
// The engine folder of `model`: itself, or what it compiles into for the device that is to run it.
Result<std::string> engine_of(const std::string& model, const CompileOptions& options, const runtime::RuntimeOptions& runtime);

}  // namespace ingot::cli
