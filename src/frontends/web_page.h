// The web page (chat, status, API console), embedded in the binary at build time from web/.
//
//   if (auto r = web_page(request)) exchange->respond(*r);       // "/", "/app.js", "/app.css", "/favicon.svg"
//
// Thread rule: constants.
#pragma once

#include <optional>

#include "frontends/http_message.h"

namespace ingot::frontends {

std::optional<HttpResponse> web_page(const HttpRequest& request);

struct WebFile {
  const char* path;
  const char* content_type;
  std::string_view bytes;
};
// Generated from web/ by cmake/embed_web.cmake.
extern const WebFile kWebFiles[];
extern const size_t kWebFileCount;

}  // namespace ingot::frontends
