#include "cli/generate_client.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <limits>

#include "base/json.h"
#include "base/options.h"

namespace ingot::cli {

using server::DataType;

namespace {

Result<Json> json_of(const server::Tensor& t) {
  Json list = Json::array();
  if (t.datatype == DataType::kBytes) {
    for (std::string_view s : TRY(server::read_strings(t))) list.push_back(std::string(s));
  } else {
    for (int64_t i = 0; i < t.elements(); ++i) {
      if (t.datatype == DataType::kBool) list.push_back(TRY(server::read_bool(t, i)));
      else if (t.datatype == DataType::kUint64) list.push_back(TRY(server::read_unsigned(t, i)));
      else if (t.datatype == DataType::kFp32 || t.datatype == DataType::kFp64 || t.datatype == DataType::kFp16) list.push_back(TRY(server::read_number(t, i)));
      else list.push_back(TRY(server::read_integer(t, i)));
    }
  }
  if (list.size() == 1) return Json(list[0]);
  return list;
}

Result<std::string> body_of(const server::InferRequest& r) {
  Json body = Json::object();
  if (!r.id.empty()) body["id"] = r.id;
  for (const server::Tensor& t : r.inputs) body[t.name] = TRY(json_of(t));
  return dump_json(body);
}

server::Tensor tensor_of(const std::string& name, const Json& value) {
  const Json list = value.is_array() ? value : Json::array({value});
  const std::vector<int64_t> shape{static_cast<int64_t>(list.size())};
  bool strings = false, integers = true;
  for (const Json& e : list) {
    strings |= e.is_string();
    integers &= e.is_number_integer() || e.is_boolean();
  }
  if (strings) {
    std::vector<std::string> texts;
    for (const Json& e : list) texts.push_back(e.is_string() ? e.get<std::string>() : e.is_null() ? "" : dump_json(e));
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    return server::string_tensor(name, shape, views);
  }
  if (integers) {
    std::vector<int64_t> numbers;
    for (const Json& e : list) numbers.push_back(e.is_boolean() ? e.get<bool>() : e.get<int64_t>());
    return server::vector_tensor<int64_t>(name, shape, numbers);
  }
  std::vector<double> numbers;
  // JSON has no infinity and no "not a number": a server writes null for them.
  for (const Json& e : list) numbers.push_back(e.is_number() ? e.get<double>() : std::numeric_limits<double>::quiet_NaN());
  return server::vector_tensor<double>(name, shape, numbers);
}

Result<server::InferResponse> response_of(std::string_view text, const std::string& url) {
  const Json j = TRY(parse_json(text, cat("the answer of ", url)));
  if (!j.is_object()) return Error(Code::kUnknown, cat(url, " answered ", text.substr(0, 200), ", want a JSON object"));
  if (auto e = j.find("error"); e != j.end()) return Error(Code::kUnknown, cat(url, ": ", e->is_string() ? e->get<std::string>() : dump_json(*e)));
  server::InferResponse r;
  for (const auto& [key, value] : j.items()) {
    if (key == "id" && value.is_string()) r.id = value.get<std::string>();
    else if (key == "model_name" && value.is_string()) r.model = value.get<std::string>();
    else if (key != "model_version") r.outputs.push_back(tensor_of(key, value));
  }
  r.empty = r.outputs.empty();
  return r;
}

// One HTTP/1.1 answer, read piece by piece.
class Reader {
 public:
  Reader(int socket, std::string url) : socket_(socket), url_(std::move(url)) {}

  Status head() {
    size_t end;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (buffer_.size() > (64u << 10)) return Error(Code::kUnknown, cat(url_, ": the answer's head is longer than 64 KiB"));
      if (!TRY(more())) return Error(Code::kUnavailable, cat(url_, " closed the connection without an answer"));
    }
    const std::string lines = buffer_.substr(0, end + 2);
    buffer_.erase(0, end + 4);
    if (lines.size() < 12 || !lines.starts_with("HTTP/1.")) return Error(Code::kUnknown, cat(url_, ": found '", lines.substr(0, 60), "', want HTTP/1.1"));
    std::from_chars(lines.data() + 9, lines.data() + 12, status);
    for (size_t begin = lines.find("\r\n") + 2; begin < lines.size();) {
      const size_t stop = lines.find("\r\n", begin), colon = lines.find(':', begin);
      if (colon < stop) {
        std::string key = lines.substr(begin, colon - begin), value = lines.substr(colon + 1, stop - colon - 1);
        for (char& c : key) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        while (!value.empty() && value[0] == ' ') value.erase(0, 1);
        if (key == "content-length") left_ = TRY(parse_int(value, "content-length"));
        if (key == "transfer-encoding") chunked_ = value == "chunked";
        if (key == "content-type") events = value.starts_with("text/event-stream");
      }
      begin = stop + 2;
    }
    if (chunked_) left_ = 0;
    return {};
  }

  // Appends what has come of the body; false at its end.
  Result<bool> body(std::string& out) {
    for (;;) {
      if (chunked_ && left_ == 0) {
        const size_t end = buffer_.find("\r\n", first_chunk_ ? 0 : 2);
        if (end != std::string::npos) {
          const size_t begin = first_chunk_ ? 0 : 2;
          auto [p, code] = std::from_chars(buffer_.data() + begin, buffer_.data() + end, left_, 16);
          if (code != std::errc() || left_ < 0) return Error(Code::kUnknown, cat(url_, ": a chunk's length is '", buffer_.substr(begin, end - begin), "'"));
          buffer_.erase(0, end + 2);
          first_chunk_ = false;
          if (left_ == 0) return false;
          continue;
        }
      } else if (!chunked_ && left_ == 0) {
        return false;
      } else if (!buffer_.empty()) {
        const size_t n = left_ < 0 ? buffer_.size() : std::min(buffer_.size(), static_cast<size_t>(left_));
        out.append(buffer_, 0, n);
        buffer_.erase(0, n);
        if (left_ > 0) left_ -= static_cast<int64_t>(n);
        return true;
      }
      if (!TRY(more())) {
        if (left_ < 0 && !chunked_) return false;  // a body up to the end of the connection
        return Error(Code::kUnavailable, cat(url_, " closed the connection inside its answer"));
      }
    }
  }

  int status = 0;
  bool events = false;

 private:
  Result<bool> more() {
    char bytes[16384];
    const ssize_t n = ::recv(socket_, bytes, sizeof bytes, 0);
    if (n < 0) return Error(Code::kUnavailable, cat(url_, ": no answer in time"));
    buffer_.append(bytes, static_cast<size_t>(n));
    return n > 0;
  }

  int socket_;
  std::string url_, buffer_;
  bool chunked_ = false, first_chunk_ = true;
  int64_t left_ = -1;  // of the body, or of the chunk
};

struct Socket {
  int fd = -1;
  ~Socket() {
    if (fd >= 0) ::close(fd);
  }
};

Status connect_to(const std::string& url, double timeout_secs, Socket& out) {
  const size_t colon = url.rfind(':');
  const std::string host = url.substr(0, colon), port = colon == std::string::npos ? "8000" : url.substr(colon + 1);
  addrinfo hints{}, *list = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &list); code != 0)
    return Error(Code::kUnavailable, cat("cannot find ", url, ": ", ::gai_strerror(code)));
  for (addrinfo* a = list; a != nullptr && out.fd < 0; a = a->ai_next) {
    const int fd = ::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) continue;
    if (timeout_secs > 0) {  // of the connection too
      const auto whole = static_cast<time_t>(timeout_secs);
      const timeval t{whole, static_cast<suseconds_t>((timeout_secs - static_cast<double>(whole)) * 1e6)};
      ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
      ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    }
    if (::connect(fd, a->ai_addr, a->ai_addrlen) == 0) out.fd = fd;
    else ::close(fd);
  }
  ::freeaddrinfo(list);
  if (out.fd < 0) return Error(Code::kUnavailable, cat("cannot connect to ", url));
  return {};
}

}  // namespace

Status GenerateClient::run(const server::InferRequest& request, bool stream, const OnResponse& on_response) {
  const std::string body = TRY(body_of(request));
  Socket socket;
  TRY(connect_to(url_, timeout_secs_, socket));
  socket_ = socket.fd;
  const std::string head = cat("POST /v2/models/", request.model, stream ? "/generate_stream" : "/generate", " HTTP/1.1\r\nHost: ", url_,
                               "\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ", body.size(), "\r\n\r\n");
  const std::string all = head + body;
  for (size_t sent = 0; sent < all.size();) {
    const ssize_t n = ::send(socket.fd, all.data() + sent, all.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return Error(Code::kUnavailable, cat(url_, " closed the connection"));
    sent += static_cast<size_t>(n);
  }
  Reader reader(socket.fd, url_);
  const auto read = [&]() -> Status {
    TRY(reader.head());
    std::string text;
    while (TRY(reader.body(text))) {
      if (!reader.events) continue;
      for (size_t end; (end = text.find("\n\n")) != std::string::npos; text.erase(0, end + 2)) {
        const std::string event = text.substr(0, end);
        if (!event.starts_with("data: ")) continue;
        if (!on_response(TRY(response_of(std::string_view(event).substr(6), url_)))) return {};
      }
    }
    if (reader.events) return {};
    auto r = response_of(text, url_);
    if (!r.ok()) return r.error();
    if (reader.status != 200) return Error(Code::kUnknown, cat(url_, " answered ", reader.status, ": ", text.substr(0, 200)));
    on_response(std::move(r).value());
    return {};
  };
  Status s = read();
  socket_ = -1;
  if (cancelled_) return Error(Code::kCancelled, "the request was cancelled");
  return s;
}

void GenerateClient::cancel() {
  cancelled_ = true;
  if (const int fd = socket_; fd >= 0) ::shutdown(fd, SHUT_RDWR);
}

}  // namespace ingot::cli
