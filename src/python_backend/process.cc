#include "python_backend/internal/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>

#include "base/json_text.h"

extern char** environ;

namespace ingot::python_backend {
namespace {

constexpr int kFirstFd = 3;

// The name under which people look for these processes (ps, pgrep -f) comes first, then the instance, its setup, and the number of the descriptor with
// the sources.
constexpr const char* kStart =
    "import json,os,sys\n"
    "fd=int(sys.argv.pop(4));sources=json.loads(os.pread(fd,os.fstat(fd).st_size,0));os.close(fd)\n"
    "exec(compile(sources.pop('bootstrap'),'<ingot bootstrap>','exec'),{'sources':sources,'__name__':'__main__'})\n";

// Made once: children read it at positions of their own.
Result<int> sources_fd() {
  static const int fd = [] {
    const int made = ::memfd_create("ingot_python_sources", MFD_CLOEXEC);
    if (made < 0) return made;
    const std::string& text = child_sources();
    if (::write(made, text.data(), text.size()) != static_cast<ssize_t>(text.size())) return -1;
    const int moved = ::fcntl(made, F_DUPFD_CLOEXEC, 16);
    ::close(made);
    return moved;
  }();
  if (fd < 0) return Error(Code::kInternal, "cannot keep the Python modules in memory");
  return fd;
}

}  // namespace

std::string_view embedded_file(std::string_view name) {
  for (size_t i = 0; i < kEmbeddedFileCount; ++i)
    if (kEmbeddedFiles[i].name == name) return kEmbeddedFiles[i].text;
  return "";
}

const std::string& child_sources() {
  static const std::string text = [] {
    static constexpr const char* kModules[][2] = {
        {"bootstrap", "bootstrap.py"},           {"ingot_python_channel", "channel.py"}, {"ingot_python_dlpack", "dlpack.py"},
        {"ingot_python_tensor", "tensor.py"},    {"ingot_python_calls", "calls.py"},     {"ingot_python_runner", "runner.py"},
        {"ingot_python_forks", "forks.py"},      {"ingot_python_shipped", "shipped.py"},
        {"triton_python_backend_utils", "surface.py"}};
    JsonText j;
    j.object();
    for (const auto& [module, file] : kModules) j.key(module).string(embedded_file(file));
    j.end();
    return std::move(j.text);
  }();
  return text;
}

void kill_group(pid_t pid) {
  if (pid > 0) ::kill(-pid, SIGKILL);
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return cat("was ended by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)), ")");
  return cat("exited with code ", WEXITSTATUS(status));
}

Result<Child> start_python(const PythonCommand& command) {
  const int sources = TRY(sources_fd());
  int output[2];
  if (::pipe2(output, O_CLOEXEC) != 0) return Error(Code::kInternal, cat("cannot make a pipe for a Python model: ", strerror(errno)));
  const int writer = ::fcntl(output[1], F_DUPFD_CLOEXEC, 16);
  ::close(output[1]);

  std::map<std::string, std::string> variables;
  const auto set = [&](const std::string& entry) {
    if (const size_t equals = entry.find('='); equals != std::string::npos) variables[entry.substr(0, equals)] = entry;
  };
  for (char** e = environ; *e != nullptr; ++e) set(*e);
  for (const std::string& e : command.environment) set(e);
  std::vector<char*> environment;
  for (auto& [name, entry] : variables) environment.push_back(entry.data());
  environment.push_back(nullptr);

  std::string sources_number = cat(kFirstFd + command.fds.size());
  std::vector<std::string> words{command.python, "-u", "-c", kStart, "triton_python_backend_stub", command.instance, command.setup, sources_number};
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, writer, 1);
  posix_spawn_file_actions_adddup2(&actions, writer, 2);
  int next = kFirstFd;
  for (int fd : command.fds) posix_spawn_file_actions_adddup2(&actions, fd, next++);
  posix_spawn_file_actions_adddup2(&actions, sources, next++);
  posix_spawn_file_actions_addclosefrom_np(&actions, next);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);

  Child child;
  const int failed = ::posix_spawnp(&child.pid, command.python.c_str(), &actions, &attributes, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(writer);
  if (failed != 0) {
    ::close(output[0]);
    return Error(Code::kInternal, cat("cannot start '", command.python, "' for model instance '", command.instance, "': ", strerror(failed)));
  }
  child.output = output[0];
  ::fcntl(child.output, F_SETFL, O_NONBLOCK);
  child.pidfd = static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0));
  return child;
}

}  // namespace ingot::python_backend
