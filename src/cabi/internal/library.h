// Library: an opened shared library with the entry points of a backend or of a batching strategy.
//
//   std::unique_ptr<Library> library = TRY(Library::open("/backends/x/libtriton_x.so"));
//   auto f = library->entry<decltype(&TRITONBACKEND_Initialize)>("TRITONBACKEND_Initialize");    // null: not exported
//
// Thread rule: open from any thread; the entry points as the interface says.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "triton/core/tritonbackend.h"

namespace ingot::cabi {

class Library {
 public:
  // Binds at once and locally. Makes this program known as libtritonserver.so first, which such libraries name as needed.
  static Result<std::unique_ptr<Library>> open(const std::string& path);
  ~Library();  // closes it, unless keep() was called
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  void keep() { keep_ = true; }
  const std::string& path() const { return path_; }
  template <class F>
  F entry(const char* name) const {
    return reinterpret_cast<F>(symbol(name));
  }

 private:
  Library(std::string path, void* handle) : path_(std::move(path)), handle_(handle) {}
  void* symbol(const char* name) const;
  std::string path_;
  void* handle_;
  bool keep_ = false;
};

struct BackendEntries {
  decltype(&TRITONBACKEND_Initialize) initialize = nullptr;
  decltype(&TRITONBACKEND_Finalize) finalize = nullptr;
  decltype(&TRITONBACKEND_GetBackendAttribute) attribute = nullptr;
  decltype(&TRITONBACKEND_ModelInitialize) model_initialize = nullptr;
  decltype(&TRITONBACKEND_ModelFinalize) model_finalize = nullptr;
  decltype(&TRITONBACKEND_ModelInstanceInitialize) instance_initialize = nullptr;
  decltype(&TRITONBACKEND_ModelInstanceFinalize) instance_finalize = nullptr;
  decltype(&TRITONBACKEND_ModelInstanceExecute) execute = nullptr;
  decltype(&TRITONBACKEND_ModelInstanceReady) ready = nullptr;
};
Result<BackendEntries> backend_entries(const Library& library);

struct BatcherEntries {
  decltype(&TRITONBACKEND_ModelBatcherInitialize) initialize = nullptr;
  decltype(&TRITONBACKEND_ModelBatcherFinalize) finalize = nullptr;
  decltype(&TRITONBACKEND_ModelBatchInitialize) batch_initialize = nullptr;
  decltype(&TRITONBACKEND_ModelBatchIncludeRequest) include = nullptr;
  decltype(&TRITONBACKEND_ModelBatchFinalize) batch_finalize = nullptr;
  bool all() const { return initialize && finalize && batch_initialize && include && batch_finalize; }
  bool none() const { return !initialize && !finalize && !batch_initialize && !include && !batch_finalize; }
};
BatcherEntries batcher_entries(const Library& library);

}  // namespace ingot::cabi
