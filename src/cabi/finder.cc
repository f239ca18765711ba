// The search for libraries.
#include <sys/stat.h>

#include <algorithm>

#include "base/files.h"
#include "cabi/cabi.h"
#include "cabi/internal/custom_model.h"
#include "cabi/internal/metrics_home.h"

namespace ingot::cabi {
namespace {

class CustomBackends : public server::BackendFinder {
 public:
  explicit CustomBackends(CustomBackendOptions options) : options_(std::move(options)) { set_metrics_home(options_.metrics); }
  ~CustomBackends() override {
    installed_.clear();
    leave_metrics_home(options_.metrics);
  }

  Result<std::shared_ptr<server::Backend>> find(Place place, const server::ModelConfig& config, const std::string& model_directory,
                                                const std::string& version_directory) override {
    const std::string& name = config.backend;
    if (name.empty() || name.find('/') != std::string::npos || name == "." || name == "..") return std::shared_ptr<server::Backend>();
    std::string file = cat("libtriton_", name, ".so");
    if (!config.runtime.empty()) {
      if (config.runtime == "model.py") return std::shared_ptr<server::Backend>();
      if (config.runtime.find('/') != std::string::npos || config.runtime == "..")
        return Error(Code::kInvalidArgument, cat("backend library name '", config.runtime, "' escapes backend directory (runtime of model '", config.name, "', want the name of a file)"));
      file = config.runtime;
    }
    const std::string root = directory_of(name), own = join_path(root, name);
    std::vector<std::string> places{version_directory, model_directory};
    if (place == Place::kInstalled) places = {own};
    for (const std::string& directory : places)
      if (!directory.empty() && file_exists(join_path(directory, file))) {
        std::shared_ptr<CustomBackend> b = TRY(open(join_path(directory, file), name, directory, root, place));
        b->asked_by(config);
        return std::shared_ptr<server::Backend>(std::move(b));
      }
    if (place == Place::kBesideModel) return std::shared_ptr<server::Backend>();
    return Error(Code::kInvalidArgument, cat(config.runtime.empty() ? cat("unable to find backend library for backend '", name, "', try specifying runtime on the model configuration.")
                                                                    : cat("unable to find backend library '", file, "' for model '", config.name, "'"),
                                             " (looked for ", file, " in ", version_directory, ", ", model_directory, " and ", own, ")"));
  }

  std::vector<std::shared_ptr<server::Backend>> found() const override {
    std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<server::Backend>> out;
    for (const auto& [key, b] : installed_) out.push_back(b);
    for (const auto& [key, weak] : beside_)
      if (auto b = weak.lock()) out.push_back(std::move(b));
    return out;
  }

 private:
  const server::StringMap* config_of(const std::string& backend) const {
    auto it = options_.config.find(backend);
    return it == options_.config.end() ? nullptr : &it->second;
  }

  std::string directory_of(const std::string& backend) const {
    for (const std::string& which : {backend, std::string()})
      if (const server::StringMap* c = config_of(which))
        if (auto it = c->find("backend-directory"); it != c->end()) return it->second;
    return options_.directory;
  }

  Result<std::shared_ptr<CustomBackend>> open(const std::string& path, const std::string& name, const std::string& directory, const std::string& root,
                                                Place place) {
    struct stat st {};
    if (::stat(path.c_str(), &st) != 0) return Error(Code::kNotFound, cat("unable to load shared library: ", path, " is gone"));
    // A file that was replaced is another library.
    const std::string key = cat(path, "|", name, "|", static_cast<uint64_t>(st.st_dev), ":", static_cast<uint64_t>(st.st_ino), ":",
                                static_cast<int64_t>(st.st_mtim.tv_sec), ".", static_cast<int64_t>(st.st_mtim.tv_nsec));
    std::lock_guard lock(mutex_);
    if (auto it = installed_.find(key); it != installed_.end()) return std::shared_ptr<CustomBackend>(it->second);
    if (auto it = beside_.find(key); it != beside_.end())
      if (std::shared_ptr<CustomBackend> b = it->second.lock()) return b;
    server::StringMap cmdline{{"auto-complete-config", options_.auto_complete ? "true" : "false"},
                              {"backend-directory", root},
                              {"min-compute-capability", "6.000000"},
                              {"default-max-batch-size", "4"}};
    for (const std::string& which : {std::string(), name})
      if (const server::StringMap* c = config_of(which))
        for (const auto& [k, v] : *c) cmdline[k] = v;
    std::shared_ptr<CustomBackend> b = TRY(CustomBackend::open(path, name, directory, cmdline, place == Place::kInstalled));
    if (place == Place::kInstalled) installed_[key] = b;
    else beside_[key] = b;
    return b;
  }

  CustomBackendOptions options_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<CustomBackend>> installed_;
  std::map<std::string, std::weak_ptr<CustomBackend>> beside_;
};

}  // namespace

std::shared_ptr<server::BackendFinder> custom_backends(CustomBackendOptions options) { return std::make_shared<CustomBackends>(std::move(options)); }

}  // namespace ingot::cabi
