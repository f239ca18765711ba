// JsonText: writes compact JSON straight into a string, without building values; for hot paths and small documents.
//
//   JsonText j;
//   j.object().key("name").string("m").key("shape").array().integer(1).integer(16).end().end();
//   std::string text = std::move(j.text);      // {"name":"m","shape":[1,16]}
//
// Thread rule: a value.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/cat.h"

namespace ingot {

// Appends `text` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD each.
void append_json_string(std::string& out, std::string_view text);

class JsonText {
 public:
  std::string text;

  JsonText& object() { return open('{'); }
  JsonText& array() { return open('['); }
  JsonText& end() {
    text += closers_.back();
    closers_.pop_back();
    comma_ = true;
    return *this;
  }
  JsonText& key(std::string_view name) {
    separate();
    append_json_string(text, name);
    text += ':';
    comma_ = false;
    return *this;
  }
  JsonText& string(std::string_view value) {
    separate();
    append_json_string(text, value);
    comma_ = true;
    return *this;
  }
  template <class T>
  JsonText& integer(T value) {
    separate();
    internal::append(text, value);
    comma_ = true;
    return *this;
  }
  // Shortest form that reads back the same; JSON has no infinities and no NaN: null.
  template <class T>
  JsonText& number(T value) {
    separate();
    if (!std::isfinite(value)) text += "null";
    else internal::append(text, value);
    comma_ = true;
    return *this;
  }
  JsonText& boolean(bool value) { return raw(value ? "true" : "false"); }
  JsonText& null() { return raw("null"); }
  // A ready JSON text as the next value.
  JsonText& raw(std::string_view json) {
    separate();
    text += json;
    comma_ = true;
    return *this;
  }

 private:
  JsonText& open(char c) {
    separate();
    text += c;
    closers_ += c == '{' ? '}' : ']';
    comma_ = false;
    return *this;
  }
  void separate() {
    if (comma_) text += ',';
  }
  std::string closers_;
  bool comma_ = false;
};

}  // namespace ingot
