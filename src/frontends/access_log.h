// AccessLog: one JSON line per finished HTTP request, to a file or stderr.
//
//   log->attach(*exchange);      // writes when the answer is complete
//
// Thread rule: safe from any thread; a failed write (full disk) drops the line.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "frontends/http_server.h"

namespace ingot::frontends {

class AccessLog : public std::enable_shared_from_this<AccessLog> {
 public:
  static Result<std::shared_ptr<AccessLog>> open(const std::string& path);  // "-": stderr
  ~AccessLog();
  void attach(Exchange& exchange, const std::string& request_id);

 private:
  int fd_ = -1;
};

}  // namespace ingot::frontends
