#include "python_backend/internal/environment.h"

#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/files.h"

extern char** environ;

namespace ingot::python_backend {
namespace {

Status unpack(const std::string& archive, const std::string& folder) {
  // tar refuses names that lead out of the folder, and finds out the compression itself.
  std::string words[] = {"tar", "-xf", archive, "-C", folder, "--no-same-owner"};
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  if (const int failed = ::posix_spawnp(&pid, "tar", nullptr, nullptr, argv.data(), environ); failed != 0)
    return Error(Code::kInternal, cat("cannot run tar for the environment ", archive, ": ", strerror(failed)));
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return Error(Code::kInvalidArgument, cat("EXECUTION_ENV_PATH ", archive, " cannot be unpacked: tar failed on it"));
  return {};
}

}  // namespace

Result<Interpreter> Environments::interpreter(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return Error(Code::kInvalidArgument, cat("EXECUTION_ENV_PATH ", path, ": found no such file or folder"));
  Interpreter out;
  std::string folder = path;
  if (!S_ISDIR(st.st_mode)) {
    const std::string key = cat(path, "|", st.st_size, "|", st.st_mtim.tv_sec, "|", st.st_mtim.tv_nsec);
    std::lock_guard lock(mutex_);  // two models with one archive: the second waits for the first
    std::shared_ptr<const std::string> known = unpacked_[key].lock();
    if (!known) {
      std::error_code code;
      std::string pattern = (std::filesystem::temp_directory_path(code) / "ingot-python-env-XXXXXX").string();
      if (code || ::mkdtemp(pattern.data()) == nullptr)
        return Error(Code::kInternal, cat("cannot make a temporary folder for the environment ", path));
      known = std::shared_ptr<const std::string>(new std::string(pattern), [](const std::string* p) {
        std::error_code ignored;
        std::filesystem::remove_all(*p, ignored);
        delete p;
      });
      TRY(unpack(path, *known));
      unpacked_[key] = known;
    }
    folder = *known;
    out.unpacked = known;
  }
  for (const char* name : {"bin/python", "bin/python3"}) {
    out.python = join_path(folder, name);
    if (::access(out.python.c_str(), X_OK) == 0) {
      const char *search = ::getenv("PATH"), *libraries = ::getenv("LD_LIBRARY_PATH");
      out.environment.push_back(cat("PATH=", join_path(folder, "bin"), search != nullptr ? cat(":", search) : std::string()));
      out.environment.push_back(cat("LD_LIBRARY_PATH=", join_path(folder, "lib"), libraries != nullptr ? cat(":", libraries) : std::string()));
      return out;
    }
  }
  return Error(Code::kInvalidArgument, cat("EXECUTION_ENV_PATH ", path, ": found no bin/python in it, want an environment as conda-pack or venv make them"));
}

}  // namespace ingot::python_backend
