// Model repositories behind `ingot serve --model-repository`: the directories as the server's source, one engine for each engine_dir.
//
//   auto models = TRY(RepositoryServer::start(server, {.flags = options.repository, .llm = llm, .compile = compile}));
//   models->stop();      // before the server: ends polling; engines end with their last model
//
// Thread rule: one thread starts and stops it.
#pragma once

#include "backends/llm.h"
#include "cli/commands.h"
#include "frontends/server_options.h"
#include "repository/lifecycle.h"
#include "server/server.h"

namespace ingot::cli {

class RepositoryServer {
 public:
  struct Options {
    frontends::RepositoryFlags flags;
    backends::LlmOptions llm;
    CompileOptions compile;
    int max_batch_size = 64;  // of models that leave it at a placeholder
  };
  static Result<std::unique_ptr<RepositoryServer>> start(server::Server& server, Options options);
  void stop() { lifecycle_.reset(); }

 private:
  std::unique_ptr<repository::Lifecycle> lifecycle_;
};

}  // namespace ingot::cli
