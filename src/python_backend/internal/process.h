// Starting the Python of a model instance.
//
//   Child c = TRY(start_python({.python = "python3", .instance = "m_0_0", .setup = json, .fds = {region, commands, events, replies}}));
//
// The child is the leader of its own process group (signals of a terminal do not reach it), inherits nothing but the descriptors
// named here, and dies with the thread that started it (it asks for that itself, first of all). Thread rule: pure function; call it from a thread that outlives the child.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"

namespace ingot::python_backend {

struct PythonCommand {
  std::string python;             // a path, or a name to look up in PATH
  std::string instance;           // shown by ps
  std::string setup;              // JSON, argv[2]
  std::vector<std::string> environment{};  // NAME=value, over the server's
  std::vector<int> fds{};         // become 3, 4, ...; all above 15
};

struct Child {
  pid_t pid = 0;
  int pidfd = -1;   // readable when it has ended; -1: this kernel has none
  int output = -1;  // its stdout and stderr
};

Result<Child> start_python(const PythonCommand& command);
void kill_group(pid_t pid);
std::string how_it_ended(int status);  // of waitpid: "exited with code 1", "was ended by signal 9 (Killed)"

// The modules of the child as one JSON object, name -> text.
const std::string& child_sources();

// One file of the Python side, embedded by CMake.
struct EmbeddedFile {
  const char* name;  // "channel.py", "onnxruntime.py"
  std::string_view text;
};
extern const EmbeddedFile kEmbeddedFiles[];
extern const size_t kEmbeddedFileCount;
std::string_view embedded_file(std::string_view name);  // "" when there is none

}  // namespace ingot::python_backend
