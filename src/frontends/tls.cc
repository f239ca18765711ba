#include "frontends/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>

namespace ingot::frontends {
namespace {

std::string reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return text == nullptr ? "unknown reason" : text;
}

}  // namespace

Result<std::unique_ptr<TlsContext>> TlsContext::create(const std::string& certificate, const std::string& key,
                                                       const std::string& client_ca) {
  std::unique_ptr<TlsContext> c(new TlsContext);
  c->context_ = SSL_CTX_new(TLS_server_method());
  if (c->context_ == nullptr) return Error(Code::kInternal, cat("tls: no context: ", reason()));
  SSL_CTX_set_min_proto_version(c->context_, TLS1_2_VERSION);
  SSL_CTX_set_mode(c->context_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_options(c->context_, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF);
  if (SSL_CTX_use_certificate_chain_file(c->context_, certificate.c_str()) != 1)
    return Error(Code::kInvalidArgument, cat("tls: cannot use certificate '", certificate, "': ", reason()));
  if (SSL_CTX_use_PrivateKey_file(c->context_, key.c_str(), SSL_FILETYPE_PEM) != 1)
    return Error(Code::kInvalidArgument, cat("tls: cannot use private key '", key, "': ", reason()));
  if (SSL_CTX_check_private_key(c->context_) != 1)
    return Error(Code::kInvalidArgument, cat("tls: private key '", key, "' does not belong to certificate '", certificate, "'"));
  if (!client_ca.empty()) {
    if (SSL_CTX_load_verify_locations(c->context_, client_ca.c_str(), nullptr) != 1)
      return Error(Code::kInvalidArgument, cat("tls: cannot use client CA '", client_ca, "': ", reason()));
    SSL_CTX_set_verify(c->context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return c;
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

TlsStream::TlsStream(const TlsContext& context, int fd) : ssl_(SSL_new(context.get())) {
  CHECK(ssl_ != nullptr);
  SSL_set_fd(ssl_, fd);
  SSL_set_accept_state(ssl_);
}

TlsStream::~TlsStream() { SSL_free(ssl_); }

ssize_t TlsStream::outcome(int result) {
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: return kAgain;
    case SSL_ERROR_ZERO_RETURN: return 0;
    default:
      broken_ = true;
      ERR_clear_error();
      return kBroken;
  }
}

ssize_t TlsStream::read(char* data, size_t size) {
  if (broken_) return kBroken;
  const int n = SSL_read(ssl_, data, static_cast<int>(std::min<size_t>(size, 1 << 30)));
  return n > 0 ? n : outcome(n);
}

ssize_t TlsStream::write(const char* data, size_t size) {
  if (broken_) return kBroken;
  const int n = SSL_write(ssl_, data, static_cast<int>(std::min<size_t>(size, 1 << 30)));
  return n > 0 ? n : outcome(n);
}

void TlsStream::shutdown() {
  if (!broken_) (void)SSL_shutdown(ssl_);
  ERR_clear_error();
}

}  // namespace ingot::frontends
