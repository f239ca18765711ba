// TlsContext and TlsStream: a server's TLS over a non-blocking socket (OpenSSL, TLS 1.2 and later).
//
//   auto context = TRY(TlsContext::create("cert.pem", "key.pem", ""));
//   TlsStream s(*context, fd);   ssize_t n = s.read(buffer, size);     // TlsStream::kAgain: wait for the socket, either direction
//
// Thread rule: a context is shared by threads; a stream belongs to one.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/result.h"

struct ssl_ctx_st;
struct ssl_st;

namespace ingot::frontends {

class TlsContext {
 public:
  // PEM files. `client_ca`, if not empty, makes a client certificate signed by it necessary.
  static Result<std::unique_ptr<TlsContext>> create(const std::string& certificate, const std::string& key,
                                                    const std::string& client_ca);
  ~TlsContext();
  ssl_ctx_st* get() const { return context_; }

 private:
  TlsContext() = default;
  ssl_ctx_st* context_ = nullptr;
};

class TlsStream {
 public:
  static constexpr ssize_t kAgain = -2;
  static constexpr ssize_t kBroken = -1;
  TlsStream(const TlsContext& context, int fd);
  ~TlsStream();
  TlsStream(const TlsStream&) = delete;
  ssize_t read(char* data, size_t size);         // 0: the peer has closed
  ssize_t write(const char* data, size_t size);
  void shutdown();  // sends close_notify, if it can be sent at once

 private:
  ssize_t outcome(int result);
  ssl_st* ssl_;
  bool broken_ = false;
};

}  // namespace ingot::frontends
