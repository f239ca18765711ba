#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "cli/commands.h"

namespace ingot::cli {

std::span<const Command> commands() {
  static constexpr Command kCommands[] = {
      {"convert", "published model (Hugging Face, GGUF, Meta) -> unified checkpoint", run_convert},
      {"quantize", "published model -> unified checkpoint of int8, int4 or fp8 weights, as quantize.py", run_quantize},
      {"build", "unified checkpoint or synthetic shape -> engine", run_build},
      {"run", "generate text with an engine or any model", run_run},
      {"chat", "talk to a model in the terminal", run_chat},
      {"serve", "serve engines and model repositories: HTTP, OpenAI, metrics, web page", run_serve},
      {"repo", "write and fill model repositories: init, fill", run_repo},
      {"launch", "start the server on a repository, as launch_triton_server.py", run_launch},
      {"client", "ask a running server over gRPC or HTTP, as the old client scripts", run_client},
      {"summarize", "summaries of a local data set and their ROUGE, as summarize.py", run_summarize},
      {"bench", "measure: offline, quality, manager, dataset, compare, load, start", run_bench},
      {"inspect", "print what is in a checkpoint or an engine, the memory plan included", run_inspect},
      {"models", "list the model families", run_models},
      {"doctor", "say what this machine can run and what is missing", run_doctor},
      {"aliases", "write the old tools' names (trtllm-build, examples/run.py, ...) into a folder", run_aliases},
  };
  return kCommands;
}

namespace {

void print_help() {
  std::printf("ingot %s: compiles published language models into engines and serves them.\n\nusage: ingot COMMAND [flags]\n\ncommands:\n", version());
  for (const Command& c : commands()) std::printf("  %-9s %s\n", c.name, c.summary);
  std::printf(
      "\nfirst steps:\n"
      "  ingot run MODEL \"prompt\"     MODEL is a Hugging Face directory or a GGUF file; compiled on first use\n"
      "  ingot serve MODEL            then http://localhost:8000\n"
      "  ingot COMMAND --help         flags of a command\n");
}

}  // namespace
}  // namespace ingot::cli

int main(int argc, char** argv) {
  using namespace ingot;
  const cli::Args args(argv + 1, argv + argc);
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    cli::print_help();
    return args.empty() ? 2 : 0;
  }
  if (args[0] == "--version" || args[0] == "version") {
    std::printf("ingot %s\n", cli::version());
    return 0;
  }
  // `mpirun -n 2 python3 examples/run.py` of the old flow: one process computes with the files of all ranks, the others have nothing to do.
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMI_RANK"})
    if (const char* rank = std::getenv(variable); rank && std::atoi(rank) > 0) return 0;
  std::vector<std::string> names;
  for (const cli::Command& c : cli::commands()) {
    if (args[0] == c.name) return c.run(cli::Args(args.begin() + 1, args.end()));
    names.push_back(c.name);
  }
  const std::string close = nearest(args[0], names);
  std::fprintf(stderr, "ingot: there is no command '%s'%s; `ingot --help` lists them\n", args[0].c_str(),
               close.empty() ? "" : cat(", did you mean '", close, "'?").c_str());
  return 2;
}
