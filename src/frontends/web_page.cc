#include "frontends/web_page.h"

namespace ingot::frontends {

std::optional<HttpResponse> web_page(const HttpRequest& request) {
  if (request.method != "GET" && request.method != "HEAD") return std::nullopt;
  const std::string_view path = request.path() == "/" ? std::string_view("/index.html") : request.path();
  for (size_t i = 0; i < kWebFileCount; ++i) {
    if (path != kWebFiles[i].path) continue;
    return HttpResponse{200,
                        kWebFiles[i].content_type,
                        {{"Cache-Control", "no-cache"},
                         {"Content-Security-Policy", "default-src 'self'; connect-src *"},
                         {"X-Content-Type-Options", "nosniff"}},
                        std::string(kWebFiles[i].bytes)};
  }
  return std::nullopt;
}

}  // namespace ingot::frontends
