// Text and JSON forms of protobuf messages, read over tables of fields into a tree. No generated code, no reflection.
//
//   Message m = TRY(parse_text_proto(text, "ensemble/config.pbtxt", model_config_type(), notes));
//   int64_t n = m.integer("max_batch_size");                    // absent: 0
//   for (const Message* input : m.messages("input")) ...
//
// Accepted as protobuf's parser does: `#` comments, `field {`, `field: {`, `field <`, `,` or `;` after a field, lists, strings in
// pieces, enums by name or number. A value that holds a placeholder `${name}` counts as not set and is noted. The tables describe no
// recursive type, so the depth of a tree is bounded by them. Thread rule: pure functions; a tree is a value.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace ingot::repository {

enum class FieldKind { kBool, kInt32, kInt64, kUint32, kUint64, kFloat, kDouble, kString, kEnum, kMessage };

struct EnumValue {
  const char* name;
  int32_t number;
};
struct EnumType {
  const char* name;
  std::span<const EnumValue> values;
};
struct MessageType;
struct FieldType {
  const char* name;
  FieldKind kind;
  const MessageType* message = nullptr;  // of kMessage
  const EnumType* enumeration = nullptr;  // of kEnum
  bool repeated = false;
  bool map = false;             // repeated entries {key, value}; an object in JSON
  const char* oneof = nullptr;  // at most one field of the group may be set
};
struct MessageType {
  const char* name;
  std::span<const FieldType> fields;
  const FieldType* find(std::string_view field) const;
};

class Message;
struct Value {
  std::variant<bool, int64_t, uint64_t, double, std::string, std::unique_ptr<Message>> data;  // enums and signed integers: int64_t
};

class Message {
 public:
  explicit Message(const MessageType& type) : type_(&type) {}
  const MessageType& type() const { return *type_; }
  bool has(std::string_view field) const { return find(field) != nullptr; }
  // Of a singular field, or the type's zero value.
  bool boolean(std::string_view field) const;
  int64_t integer(std::string_view field) const;
  uint64_t unsigned_integer(std::string_view field) const;
  double number(std::string_view field) const;
  std::string string(std::string_view field) const;
  const Message* message(std::string_view field) const;  // nullptr: not set
  // Of a repeated field.
  std::vector<const Message*> messages(std::string_view field) const;
  std::vector<std::string> strings(std::string_view field) const;
  std::vector<int64_t> integers(std::string_view field) const;
  std::vector<double> numbers(std::string_view field) const;
  std::vector<bool> booleans(std::string_view field) const;

  struct Field {
    const FieldType* type;
    std::vector<Value> values;
  };
  const std::vector<Field>& fields() const { return fields_; }
  Field& field(const FieldType& type);  // the field, added when it is not there
  const FieldType* oneof_taken(const FieldType& type) const;  // the field that holds the group already

 private:
  const Field* find(std::string_view field) const;
  const Value* first(std::string_view field) const;
  const MessageType* type_;
  std::vector<Field> fields_;
};

// A value that was left out: `path` is "input[3].data_type".
struct Unset {
  std::string path, placeholder;
  int line = 0, column = 0;
};

// `file` names the text in errors: "<file>:<line>:<column>: found ..., want ...".
Result<Message> parse_text_proto(std::string_view text, std::string_view file, const MessageType& type, std::vector<Unset>* unset);
// proto3 JSON: names in snake_case or lowerCamelCase, 64-bit integers also as strings, enums by name or number.
Result<Message> parse_json_proto(std::string_view json, std::string_view what, const MessageType& type);

// Writes a string as a text-proto literal with its quotes.
std::string quote_text_proto(std::string_view text);

}  // namespace ingot::repository
