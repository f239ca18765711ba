// JsonScan: a pull reader for the fixed-form JSON of tensor files (headers and indexes up to 100 MB), without building values.
//
//   JsonScan s(text, path);
//   TRY(s.object([&](std::string key) -> Status { if (key == "x") { x = TRY(s.integer()); return {}; } return s.skip(); }));
//   TRY(s.end());
//
// Errors name the source and the byte offset. Thread rule: one thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace ingot::formats {

class JsonScan {
 public:
  JsonScan(std::string_view text, std::string what) : text_(text), what_(std::move(what)) {}
  Status object(const std::function<Status(std::string key)>& member);
  Status array(const std::function<Status()>& element);
  Result<std::string> string();
  Result<int64_t> integer();  // a JSON number without fraction or exponent that fits
  Status skip(int depth = 0);
  Status end();  // nothing but blanks is left
  Error wrong(std::string_view wanted) const;

 private:
  void blanks();
  bool take(char c);
  Result<uint32_t> hex4();

  std::string_view text_;
  std::string what_;
  size_t at_ = 0;
};

}  // namespace ingot::formats
