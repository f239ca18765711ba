// Lifecycle: which models of a repository are loaded when: all at start (none), the named ones (explicit), or as the files change
// (poll).
//
//   auto lifecycle = TRY(Lifecycle::start(server.registry(), repository, {.mode = Lifecycle::Mode::kPoll, .poll_secs = 15}));
//   log << model_table(server.registry());
//
// Thread rule: start and destroy from one thread; in mode poll a thread of its own loads and unloads.
#pragma once

#include <condition_variable>
#include <optional>
#include <thread>

#include "repository/repository.h"

namespace ingot::repository {

class Lifecycle {
 public:
  enum class Mode { kNone, kPoll, kExplicit };
  struct Options {
    Mode mode = Mode::kNone;
    std::vector<std::string> load{};  // of kExplicit; "*" alone: all
    int poll_secs = 15;
    int threads = 4;       // that load at once
    int retries = 0;       // after a load that failed
    bool exit_on_error = true;
  };
  // Loads what is due. With exit_on_error the first failure is the result, else failures stay in the registry's index.
  static Result<std::unique_ptr<Lifecycle>> start(server::ModelRegistry& registry, std::shared_ptr<Repository> repository, Options options);
  ~Lifecycle();
  // One look at the files: loads what is new or changed, unloads what is gone. What fails is logged and tried again when it changes.
  void poll();

 private:
  Lifecycle(server::ModelRegistry& registry, std::shared_ptr<Repository> repository, Options options)
      : registry_(registry), repository_(std::move(repository)), options_(std::move(options)) {}
  Status load_all(const std::vector<std::string>& names);
  void load_wave(const std::vector<std::string>& names, std::string& failures, std::optional<Error>& first);
  std::vector<std::vector<std::string>> in_order(const std::vector<std::string>& names) const;
  Result<std::vector<std::string>> wanted();

  server::ModelRegistry& registry_;
  std::shared_ptr<Repository> repository_;
  Options options_;
  std::map<std::string, uint64_t> seen_;  // fingerprints; of the polling thread after start
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

// Tables of the start-up log, framed with + - |.
std::string text_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);
std::string model_table(server::ModelRegistry& registry);    // Model, Version, Status
std::string backend_table(server::ModelRegistry& registry, const std::map<std::string, server::StringMap>& config);  // Backend, Path, Config

}  // namespace ingot::repository
