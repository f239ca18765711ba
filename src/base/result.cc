#include "base/result.h"

#include <cstdio>
#include <cstdlib>

namespace ingot {

const char* code_name(Code code) {
  switch (code) {
    case Code::kUnknown: return "Unknown";
    case Code::kInternal: return "Internal";
    case Code::kNotFound: return "Not found";
    case Code::kInvalidArgument: return "Invalid argument";
    case Code::kUnavailable: return "Unavailable";
    case Code::kUnsupported: return "Unsupported";
    case Code::kAlreadyExists: return "Already exists";
    case Code::kCancelled: return "Cancelled";
  }
  return "Unknown";
}

void check_failed(const char* condition, const char* file, int line, const std::string& values) {
  std::fprintf(stderr, "ingot: internal error at %s:%d: CHECK(%s) failed%s%s\n", file, line, condition, values.empty() ? "" : ": ",
               values.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace ingot
