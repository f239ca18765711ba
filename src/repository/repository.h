// Repository: directories of models on disk as the ModelSource of a server.
//
//   auto repository = TRY(Repository::open({.directories = {"model_repo"}}));
//   server.registry().set_source(repository);
//   TRY(server.registry().load_by_name("ensemble", {}));
//
// A model is a folder with config.pbtxt and version folders named 1, 2, ...; the config's name is the folder's. What else lies in a
// repository is named once in the log and left alone. Files are read anew at each describe(). Thread rule: safe from any thread.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>

#include "repository/config_file.h"
#include "server/registry.h"

namespace ingot::repository {

struct RepositoryOptions {
  std::vector<std::string> directories{};
  std::string config_name{};  // configs/NAME.pbtxt of a model where there is one
  bool namespacing = false;   // equal names in several directories: names() are "<directory>/<name>", and the directory is the namespace
  bool auto_complete = true;  // a model without config.pbtxt may be described by its files
  // Completes a config by what native backends know about it (`all` holds every readable config of the repository, or of the
  // model's namespace, this one too).
  // Called before the versions are chosen.
  std::function<Status(server::ModelSpec& spec, const ParsedConfig& parsed, const std::map<std::string, server::ModelConfig>& all)> adapt{};
};

class Repository : public server::ModelSource {
 public:
  static Result<std::shared_ptr<Repository>> open(RepositoryOptions options);
  ~Repository() override;
  Result<server::ModelSpec> describe(const std::string& name, const server::LoadParameters& parameters) override;
  std::vector<std::string> names() override;
  std::string obstacle(const std::string& name) override;

  // The config as the file says it, and the model's folder.
  struct Described {
    ParsedConfig parsed;
    std::string directory;
  };
  Result<Described> read(const std::string& name) const;
  // The name of an ensemble's step or a model's companion: with namespaces, the exact name of the one beside it if there is one.
  std::string name_beside(const std::string& name_space, const std::string& name) const;
  // Changes when a file of the model changes, comes or goes; 0: there is no such model.
  uint64_t fingerprint(const std::string& name) const;
  const std::vector<std::string>& directories() const { return options_.directories; }

 private:
  explicit Repository(RepositoryOptions options) : options_(std::move(options)) {}
  bool is_model(const std::string& directory) const;
  Result<std::string> directory_of(const std::string& name) const;
  std::string config_path(const std::string& directory) const;
  Result<std::string> unpack(const std::string& name, const server::LoadParameters& parameters);
  std::map<std::string, server::ModelConfig> configs(const std::string& name_space);

  RepositoryOptions options_;
  mutable std::mutex mutex_;
  std::set<std::string> strays_;                      // named in the log already
  std::map<std::string, std::string> unpacked_;       // model -> folder of the files that came with a load request
};

// Version folders of a model: integers above 0 without leading zeros, ascending.
std::vector<int64_t> version_folders(const std::string& directory);
// Those that the policy chooses.
std::vector<int64_t> choose_versions(const std::optional<server::VersionPolicy>& policy, const std::vector<int64_t>& all);

}  // namespace ingot::repository
