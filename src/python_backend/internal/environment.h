// Environments: the Python installations that models bring along (EXECUTION_ENV_PATH), packed ones unpacked once.
//
//   Interpreter i = TRY(environments->interpreter("/repo/m/env.tar.gz"));      // {.python = ".../bin/python", .environment = {"PATH=..."}}
//
// An unpacked folder lives while a model holds its Interpreter. Thread rule: safe from any thread.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"

namespace ingot::python_backend {

struct Interpreter {
  std::string python = "python3";
  std::vector<std::string> environment{};
  std::shared_ptr<const void> unpacked{};  // keeps the folder
};

class Environments {
 public:
  // `path`: a folder with bin/python, or a tar archive (as conda-pack makes them) of such a folder.
  Result<Interpreter> interpreter(const std::string& path);

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const std::string>> unpacked_;  // path, time and size -> folder
};

}  // namespace ingot::python_backend
