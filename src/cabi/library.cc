#include "cabi/internal/library.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>

#include "base/cat.h"
#include "cabi/cabi.h"
#include "cabi/internal/soname.h"

namespace ingot::cabi {
namespace {

std::string dl_error() {
  const char* e = ::dlerror();
  return e ? e : "unknown error";
}

// Opens an empty library whose SONAME is libtritonserver.so, from memory: the loader then counts that name as loaded, and finds the
// functions themselves in this program, whose symbols come first.
Status take_soname() {
  const int fd = ::memfd_create("libtritonserver.so", MFD_CLOEXEC);
  if (fd < 0) return Error(Code::kInternal, "cannot make a memory file for libtritonserver.so");
  size_t at = 0;
  while (at < kSonameLibrarySize) {
    const ssize_t n = ::write(fd, kSonameLibrary + at, kSonameLibrarySize - at);
    if (n <= 0) break;
    at += static_cast<size_t>(n);
  }
  void* handle = at == kSonameLibrarySize ? ::dlopen(cat("/proc/self/fd/", fd).c_str(), RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE) : nullptr;
  Status out;
  if (!handle) out = Error(Code::kInternal, cat("cannot load libtritonserver.so: ", dl_error()));
  ::close(fd);
  return out;
}

const Status& prepared() {
  static const Status kStatus = [] {
    Status s = check_symbols();
    return s.ok() ? take_soname() : s;
  }();
  return kStatus;
}

}  // namespace

Status check_symbols() {
  for (const Symbol& s : symbols())
    if (::dlsym(RTLD_DEFAULT, s.name) != s.address)
      return Error(Code::kInternal, cat("this program does not export ", s.name, ", which backends need: link it with the export list of src/cabi"));
  return {};
}

Result<std::unique_ptr<Library>> Library::open(const std::string& path) {
  TRY(Status(prepared()));
  static std::mutex mutex;  // dlerror() belongs to the thread, but constructors of libraries run one at a time
  std::lock_guard lock(mutex);
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return Error(Code::kNotFound, cat("unable to load shared library: ", dl_error()));
  return std::unique_ptr<Library>(new Library(path, handle));
}

Library::~Library() {
  if (!keep_) ::dlclose(handle_);
}

void* Library::symbol(const char* name) const { return ::dlsym(handle_, name); }

Result<BackendEntries> backend_entries(const Library& l) {
  BackendEntries e;
  const auto find = [&](auto& f, const char* name) { f = l.entry<std::remove_reference_t<decltype(f)>>(name); };
  find(e.initialize, "TRITONBACKEND_Initialize");
  find(e.finalize, "TRITONBACKEND_Finalize");
  find(e.attribute, "TRITONBACKEND_GetBackendAttribute");
  find(e.model_initialize, "TRITONBACKEND_ModelInitialize");
  find(e.model_finalize, "TRITONBACKEND_ModelFinalize");
  find(e.instance_initialize, "TRITONBACKEND_ModelInstanceInitialize");
  find(e.instance_finalize, "TRITONBACKEND_ModelInstanceFinalize");
  find(e.execute, "TRITONBACKEND_ModelInstanceExecute");
  find(e.ready, "TRITONBACKEND_ModelInstanceReady");
  if (!e.execute)
    return Error(Code::kNotFound, cat("unable to find required entrypoint 'TRITONBACKEND_ModelInstanceExecute' in shared library ", l.path()));
  return e;
}

BatcherEntries batcher_entries(const Library& l) {
  BatcherEntries e;
  const auto find = [&](auto& f, const char* name) { f = l.entry<std::remove_reference_t<decltype(f)>>(name); };
  find(e.initialize, "TRITONBACKEND_ModelBatcherInitialize");
  find(e.finalize, "TRITONBACKEND_ModelBatcherFinalize");
  find(e.batch_initialize, "TRITONBACKEND_ModelBatchInitialize");
  find(e.include, "TRITONBACKEND_ModelBatchIncludeRequest");
  find(e.batch_finalize, "TRITONBACKEND_ModelBatchFinalize");
  return e;
}

}  // namespace ingot::cabi
