// PythonBackend: models whose code is a model.py, each instance in a process of its own.
//
//   server.registry().add_backend(std::make_shared<PythonBackend>(PythonBackend::ModelCode{}));
//   server.registry().add_backend_finder(std::make_shared<PythonBackendFinder>("/opt/tritonserver/backends"));
//
// "python" runs the model.py of a version folder. A folder of the backend directory with a model.py is a backend of that name, whose
// model.py serves all its models; "onnxruntime" and "openvino" come with the server in that form. Thread rule: safe from any thread.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/registry.h"

namespace ingot::python_backend {

class Workers;
class Environments;

class PythonBackend : public server::Backend {
 public:
  struct ModelCode {
    std::string name = "python";
    std::string directory{};  // with the model.py of a python-based backend; "": of each model's version folder
    std::string source{};     // text of a model.py that comes with the server
  };
  explicit PythonBackend(ModelCode code);
  ~PythonBackend() override;
  std::string name() const override { return code_.name; }
  std::string path() const override { return path_of(code_); }
  static std::string path_of(const ModelCode& code);  // the model.py, "<built in>"
  Result<std::shared_ptr<server::Model>> load(const server::ModelLoad& load) override;

 private:
  ModelCode code_;
  std::shared_ptr<Workers> workers_;
  std::shared_ptr<Environments> environments_;
};

// The python-based backends: <directory>/<name>/model.py, where there is no libtriton_<name>.so beside it (or the config says runtime: "model.py");
// then those that come with the server.
class PythonBackendFinder : public server::BackendFinder {
 public:
  explicit PythonBackendFinder(std::string directory) : directory_(std::move(directory)) {}
  Result<std::shared_ptr<server::Backend>> find(Place place, const server::ModelConfig& config, const std::string& model_directory,
                                                const std::string& version_directory) override;
  std::vector<std::shared_ptr<server::Backend>> found() const override;

 private:
  std::string directory_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<PythonBackend>> found_;
};

}  // namespace ingot::python_backend
