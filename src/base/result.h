// Result<T>: a value or an Error, shaped like std::expected; TRY passes an error up; CHECK stops the process on a bug of ours.
//
//   Result<Config> read(const std::string& path) {
//     std::string text = TRY(read_file(path));
//     if (text.empty()) return Error(Code::kInvalidArgument, cat(path, " is empty, want a JSON object"));
//     ...
//   }
//
// Thread rule: values; no shared state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace ingot {

// Triton's codes, in its numbering, so that HTTP and gRPC status are one table in `frontends`.
enum class Code { kUnknown, kInternal, kNotFound, kInvalidArgument, kUnavailable, kUnsupported, kAlreadyExists, kCancelled };

const char* code_name(Code code);  // "Not found", as Triton prints it

class [[nodiscard]] Error {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // The same error with what was being done in front: "convert: <message>".
  Error in(std::string_view doing) const { return Error(code_, std::string(doing) + ": " + message_); }

 private:
  Code code_;
  std::string message_;
};

template <class T = void>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool ok() const { return v_.index() == 0; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return std::get<1>(v_); }
  T& value() & { return std::get<0>(v_); }
  const T& value() const& { return std::get<0>(v_); }
  T&& value() && { return std::get<0>(std::move(v_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T value_or(T other) const { return ok() ? value() : std::move(other); }

 private:
  std::variant<T, Error> v_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : e_(std::move(error)) {}  // NOLINT
  bool ok() const { return !e_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *e_; }
  void value() const {}

 private:
  std::optional<Error> e_;
};
using Status = Result<void>;

// Prints the message with its place to stderr and aborts.
[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& values);

}  // namespace ingot

// Evaluates to the value of a Result; returns its Error from the enclosing function. Not inside an initialiser list (GCC does not
// destroy the elements already made when a statement expression returns).
#define TRY(...)                                         \
  ({                                                     \
    auto&& try_result_ = (__VA_ARGS__);                  \
    if (!try_result_.ok()) return try_result_.error();   \
    std::forward<decltype(try_result_)>(try_result_).value(); \
  })

#define CHECK(condition, ...)                                                                                      \
  do {                                                                                                             \
    if (!(condition)) [[unlikely]]                                                                                 \
      ::ingot::check_failed(#condition, __FILE__, __LINE__, std::string() __VA_OPT__(+::ingot::cat(__VA_ARGS__))); \
  } while (false)

#include "base/cat.h"  // CHECK's values go through cat
