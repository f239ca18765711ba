// CustomBackends: third-party backends, shared libraries that speak the TRITONBACKEND C interface (include/triton/core).
//
//   registry.add_backend_finder(cabi::custom_backends({.directory = dir, .config = backend_config, .metrics = &server.metrics()}));
//
// A model whose config says `backend: "x"` gets libtriton_x.so (or the file that `runtime` names) of its version's folder, its own
// folder, or <directory>/x. The program that links this module must export the interface's functions: linking ingot_cabi does that.
// A library of the directory stays loaded; one beside a model is closed with the last model that uses it.
// Thread rule: safe from any thread.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "server/registry.h"

namespace ingot::cabi {

struct CustomBackendOptions {
  std::string directory = "/opt/tritonserver/backends";
  std::map<std::string, server::StringMap> config{};  // --backend-config, by backend; "" is for all
  bool auto_complete = true;
  server::MetricsRegistry* metrics = nullptr;  // where metrics of libraries go; must outlive the finder
};

std::shared_ptr<server::BackendFinder> custom_backends(CustomBackendOptions options);

// Every function that the headers of the interface declare, and where it is in this program.
struct Symbol {
  const char* name;
  const void* address;
};
std::span<const Symbol> symbols();
// kInternal, naming the first function which a library that is loaded now would not find.
Status check_symbols();

}  // namespace ingot::cabi
