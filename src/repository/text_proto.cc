#include "repository/text_proto.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "base/json.h"
#include "base/options.h"

namespace ingot::repository {

const FieldType* MessageType::find(std::string_view field) const {
  for (const FieldType& f : fields)
    if (field == f.name) return &f;
  return nullptr;
}

const Message::Field* Message::find(std::string_view field) const {
  for (const Field& f : fields_)
    if (field == f.type->name && !f.values.empty()) return &f;
  return nullptr;
}

const Value* Message::first(std::string_view field) const {
  const Field* f = find(field);
  return f ? &f->values[0] : nullptr;
}

Message::Field& Message::field(const FieldType& type) {
  for (Field& f : fields_)
    if (f.type == &type) return f;
  fields_.push_back({&type, {}});
  return fields_.back();
}

const FieldType* Message::oneof_taken(const FieldType& type) const {
  if (!type.oneof) return nullptr;
  for (const Field& f : fields_)
    if (f.type != &type && !f.values.empty() && f.type->oneof && std::string_view(f.type->oneof) == type.oneof) return f.type;
  return nullptr;
}

namespace {

int64_t to_integer(const Value& v) {
  if (auto* i = std::get_if<int64_t>(&v.data)) return *i;
  if (auto* u = std::get_if<uint64_t>(&v.data)) return static_cast<int64_t>(*u);
  if (auto* b = std::get_if<bool>(&v.data)) return *b ? 1 : 0;
  return 0;
}

double to_number(const Value& v) {
  if (auto* d = std::get_if<double>(&v.data)) return *d;
  return static_cast<double>(to_integer(v));
}

bool to_boolean(const Value& v) {
  auto* b = std::get_if<bool>(&v.data);
  return b && *b;
}

}  // namespace

bool Message::boolean(std::string_view field) const {
  const Value* v = first(field);
  return v && to_boolean(*v);
}
int64_t Message::integer(std::string_view field) const {
  const Value* v = first(field);
  return v ? to_integer(*v) : 0;
}
uint64_t Message::unsigned_integer(std::string_view field) const {
  const Value* v = first(field);
  return v ? static_cast<uint64_t>(to_integer(*v)) : 0;
}
double Message::number(std::string_view field) const {
  const Value* v = first(field);
  return v ? to_number(*v) : 0;
}
std::string Message::string(std::string_view field) const {
  const Value* v = first(field);
  const std::string* s = v ? std::get_if<std::string>(&v->data) : nullptr;
  return s ? *s : "";
}
const Message* Message::message(std::string_view field) const {
  const Value* v = first(field);
  auto* m = v ? std::get_if<std::unique_ptr<Message>>(&v->data) : nullptr;
  return m ? m->get() : nullptr;
}
std::vector<const Message*> Message::messages(std::string_view field) const {
  std::vector<const Message*> out;
  if (const Field* f = find(field))
    for (const Value& v : f->values)
      if (auto* m = std::get_if<std::unique_ptr<Message>>(&v.data)) out.push_back(m->get());
  return out;
}
std::vector<std::string> Message::strings(std::string_view field) const {
  std::vector<std::string> out;
  if (const Field* f = find(field))
    for (const Value& v : f->values)
      if (auto* s = std::get_if<std::string>(&v.data)) out.push_back(*s);
  return out;
}
std::vector<int64_t> Message::integers(std::string_view field) const {
  std::vector<int64_t> out;
  if (const Field* f = find(field))
    for (const Value& v : f->values) out.push_back(to_integer(v));
  return out;
}
std::vector<double> Message::numbers(std::string_view field) const {
  std::vector<double> out;
  if (const Field* f = find(field))
    for (const Value& v : f->values) out.push_back(to_number(v));
  return out;
}
std::vector<bool> Message::booleans(std::string_view field) const {
  std::vector<bool> out;
  if (const Field* f = find(field))
    for (const Value& v : f->values) out.push_back(to_boolean(v));
  return out;
}

namespace {

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

struct Token {
  enum class Kind { kEnd, kName, kNumber, kString, kSymbol, kPlaceholder } kind = Kind::kEnd;
  std::string text;  // names and numbers as written; strings decoded
  int line = 1, column = 1;
  bool unset = false;  // a string that holds a placeholder
};

std::string shown(const Token& t) {
  if (t.kind == Token::Kind::kEnd) return "the end of the file";
  std::string s = t.text.size() > 40 ? t.text.substr(0, 40) + "..." : t.text;
  return t.kind == Token::Kind::kString ? cat("the string ", quote_text_proto(s)) : cat("'", s, "'");
}

const char* kind_wanted(const FieldType& f) {
  switch (f.kind) {
    case FieldKind::kBool: return "true or false";
    case FieldKind::kInt32: return "a 32-bit integer";
    case FieldKind::kInt64: return "a 64-bit integer";
    case FieldKind::kUint32: return "an unsigned 32-bit integer";
    case FieldKind::kUint64: return "an unsigned 64-bit integer";
    case FieldKind::kFloat:
    case FieldKind::kDouble: return "a number";
    case FieldKind::kString: return "a string in quotes";
    case FieldKind::kEnum: return "an enum value";
    case FieldKind::kMessage: return "'{'";
  }
  return "";
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

// The first "${name}" in a text, "" if none.
std::string placeholder_in(std::string_view s) {
  for (size_t at = s.find("${"); at != std::string_view::npos; at = s.find("${", at + 2)) {
    const size_t end = s.find('}', at);
    if (end == std::string_view::npos) return "";
    bool name = end > at + 2 && is_name_start(s[at + 2]);
    for (size_t i = at + 2; i < end; ++i) name &= is_name_start(s[i]) || is_digit(s[i]);
    if (name) return std::string(s.substr(at, end - at + 1));
  }
  return "";
}

class Lexer {
 public:
  Lexer(std::string_view text, std::string_view file) : text_(text), file_(file) {}

  Error error(const Token& t, std::string_view what) const {
    return Error(Code::kInvalidArgument, cat(file_, ":", t.line, ":", t.column, ": ", what));
  }

  Status next(Token& t) {
    skip_blank();
    t = Token();
    t.line = line_;
    t.column = column_;
    if (at_ >= text_.size()) return {};
    const char c = text_[at_];
    if (is_name_start(c)) {
      t.kind = Token::Kind::kName;
      while (at_ < text_.size() && (is_name_start(text_[at_]) || is_digit(text_[at_]))) t.text += take();
    } else if (is_digit(c) || (c == '.' && at_ + 1 < text_.size() && is_digit(text_[at_ + 1]))) {
      t.kind = Token::Kind::kNumber;
      while (at_ < text_.size() && number_goes_on(t.text)) t.text += take();
    } else if (c == '"' || c == '\'') {
      t.kind = Token::Kind::kString;
      return string(t);
    } else if (c == '$' && at_ + 1 < text_.size() && text_[at_ + 1] == '{') {
      t.kind = Token::Kind::kPlaceholder;
      while (at_ < text_.size() && text_[at_] != '}' && text_[at_] != '\n') t.text += take();
      if (at_ >= text_.size() || text_[at_] != '}') return error(t, cat("found ", shown(t), ", want a placeholder that ends with '}'"));
      t.text += take();
    } else {
      t.kind = Token::Kind::kSymbol;
      t.text += take();
    }
    return {};
  }

 private:
  char take() {
    const char c = text_[at_++];
    if (c == '\n') {
      ++line_;
      column_ = 1;
    } else {
      ++column_;
    }
    return c;
  }
  void skip_blank() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f') {
        take();
      } else if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') take();
      } else if (at_ == 0 && text_.starts_with("\xEF\xBB\xBF")) {
        at_ = 3;  // byte order mark
      } else {
        return;
      }
    }
  }
  bool number_goes_on(const std::string& so_far) const {
    const char c = text_[at_];
    if (is_digit(c) || is_name_start(c) || c == '.') return true;
    if ((c == '+' || c == '-') && !so_far.empty() && (so_far.back() == 'e' || so_far.back() == 'E')) return !so_far.starts_with("0x") && !so_far.starts_with("0X");
    return false;
  }
  Result<uint32_t> hex(const Token& t, int least, int most) {
    uint32_t v = 0;
    int n = 0;
    for (; n < most && at_ < text_.size(); ++n) {
      const char c = text_[at_];
      int d = is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (d < 0) break;
      v = v * 16 + static_cast<uint32_t>(d);
      take();
    }
    if (n < least) return error(t, cat("found an escape with ", n, " hexadecimal digits in the string, want ", least));
    return v;
  }
  Status string(Token& t) {
    const char quote = take();
    while (true) {
      if (at_ >= text_.size() || text_[at_] == '\n') return error(t, cat("found a string without its closing ", quote, " on the same line"));
      char c = take();
      if (c == quote) return {};
      if (c != '\\') {
        t.text += c;
        continue;
      }
      if (at_ >= text_.size()) return error(t, "found a string that ends inside an escape");
      c = take();
      constexpr std::string_view kFrom = "abfnrtv\\'\"?", kTo = "\a\b\f\n\r\t\v\\'\"?";
      if (const size_t i = kFrom.find(c); i != std::string_view::npos) {
        t.text += kTo[i];
      } else if (c >= '0' && c <= '7') {
        int v = c - '0';
        for (int n = 1; n < 3 && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '7'; ++n) v = v * 8 + (take() - '0');
        if (v > 255) return error(t, "found an octal escape above \\377 in the string");
        t.text += static_cast<char>(v);
      } else if (c == 'x' || c == 'X') {
        t.text += static_cast<char>(TRY(hex(t, 1, 2)));
      } else if (c == 'u' || c == 'U') {
        const uint32_t v = TRY(c == 'u' ? hex(t, 4, 4) : hex(t, 8, 8));
        if (v > 0x10FFFF || (v >= 0xD800 && v < 0xE000)) return error(t, "found an escape in the string that is no Unicode character");
        append_utf8(t.text, v);
      } else {
        return error(t, cat("found the unknown escape '\\", c, "' in the string"));
      }
    }
  }

  std::string_view text_, file_;
  size_t at_ = 0;
  int line_ = 1, column_ = 1;
};

Result<uint64_t> magnitude(std::string_view s) {
  int base = 10;
  if (s.starts_with("0x") || s.starts_with("0X")) {
    base = 16;
    s.remove_prefix(2);
  } else if (s.size() > 1 && s[0] == '0') {
    base = 8;
    s.remove_prefix(1);
  }
  uint64_t v = 0;
  auto [end, code] = std::from_chars(s.data(), s.data() + s.size(), v, base);
  if (code != std::errc() || end != s.data() + s.size() || s.empty()) return Error(Code::kInvalidArgument, "");
  return v;
}

// An integer of the field's range, or nothing.
bool fit_integer(FieldKind kind, bool negative, uint64_t v, Value& out) {
  switch (kind) {
    case FieldKind::kUint32:
    case FieldKind::kUint64:
      if ((negative && v != 0) || (kind == FieldKind::kUint32 && v > std::numeric_limits<uint32_t>::max())) return false;
      out.data = v;
      return true;
    case FieldKind::kInt32:
    case FieldKind::kEnum:
      if (v > (uint64_t{1} << 31) - (negative ? 0 : 1)) return false;
      break;
    default:
      if (v > (uint64_t{1} << 63) - (negative ? 0 : 1)) return false;
  }
  out.data = negative ? static_cast<int64_t>(~v + 1) : static_cast<int64_t>(v);
  return true;
}

const EnumValue* find_enum(const EnumType& type, std::string_view name) {
  for (const EnumValue& v : type.values)
    if (name == v.name) return &v;
  return nullptr;
}

std::string enum_names(const EnumType& type) {
  std::string out;
  for (const EnumValue& v : type.values) out += cat(out.empty() ? "" : ", ", v.name);
  return out;
}

std::string unknown_field(const MessageType& type, std::string_view name) {
  std::vector<std::string> names;
  for (const FieldType& f : type.fields) names.emplace_back(f.name);
  const std::string close = nearest(name, names);
  if (!close.empty()) return cat("found the field '", name, "', which ", type.name, " does not have; did you mean '", close, "'?");
  std::string all;
  for (const std::string& n : names) all += cat(all.empty() ? "" : ", ", n);
  return cat("found the field '", name, "', which ", type.name, " does not have; want one of ", all);
}

class Parser {
 public:
  Parser(std::string_view text, std::string_view file, std::vector<Unset>* unset) : lexer_(text, file), unset_(unset) {}

  Result<Message> parse(const MessageType& type) {
    TRY(advance());
    Message m(type);
    TRY(fields(m, ""));
    return m;
  }

 private:
  Status advance() { return lexer_.next(token_); }
  bool symbol(char c) const { return token_.kind == Token::Kind::kSymbol && token_.text[0] == c; }
  Error want(std::string_view what) const { return lexer_.error(token_, cat("found ", shown(token_), ", want ", what)); }

  // Fields up to `close` ("" : the end of the file).
  Status fields(Message& m, std::string_view close) {
    while (true) {
      if (token_.kind == Token::Kind::kEnd) {
        if (close.empty()) return {};
        return want(cat("a field of ", m.type().name, " or '", close, "' that closes line ", opened_.back()));
      }
      if (!close.empty() && symbol(close[0])) return advance();
      if (token_.kind != Token::Kind::kName) return want(cat("a field of ", m.type().name));
      const FieldType* f = m.type().find(token_.text);
      if (!f) return lexer_.error(token_, unknown_field(m.type(), token_.text));
      if (const FieldType* other = m.oneof_taken(*f))
        return lexer_.error(token_, cat("found '", f->name, "' beside '", other->name, "', want only one of them in ", m.type().name));
      if (!f->repeated && (m.has(f->name))) return lexer_.error(token_, cat("found '", f->name, "' a second time in one ", m.type().name, ", want it once"));
      TRY(advance());
      bool colon = symbol(':');
      if (colon) TRY(advance());
      if (!colon && f->kind != FieldKind::kMessage) return want(cat("':' after '", f->name, "'"));
      const size_t length = path_.size();
      path_ += cat(path_.empty() ? "" : ".", f->name);
      if (f->repeated && symbol('[')) TRY(list(m, *f));
      else TRY(value(m, *f));
      path_.resize(length);
      if (symbol(',') || symbol(';')) TRY(advance());
    }
  }

  Status list(Message& m, const FieldType& f) {
    TRY(advance());
    if (symbol(']')) return advance();
    while (true) {
      TRY(value(m, f));
      if (symbol(']')) return advance();
      if (!symbol(',')) return want(cat("',' or ']' in the list of '", f.name, "'"));
      TRY(advance());
    }
  }

  void note_unset(const std::string& placeholder, const Token& at) {
    if (unset_) unset_->push_back({path_, placeholder, at.line, at.column});
  }

  Status value(Message& m, const FieldType& f) {
    Value v;
    if (f.kind == FieldKind::kMessage) {
      const bool brace = symbol('{');
      if (!brace && !symbol('<')) return want(cat("'{' that begins '", f.name, "'"));
      opened_.push_back(token_.line);
      TRY(advance());
      auto child = std::make_unique<Message>(*f.message);
      const size_t length = path_.size();
      if (f.repeated) path_ += cat("[", m.field(f).values.size(), "]");
      TRY(fields(*child, brace ? "}" : ">"));
      path_.resize(length);
      opened_.pop_back();
      v.data = std::move(child);
      m.field(f).values.push_back(std::move(v));
      return {};
    }
    if (token_.kind == Token::Kind::kPlaceholder) {
      note_unset(token_.text, token_);
      return advance();
    }
    if (f.kind == FieldKind::kString) {
      if (token_.kind != Token::Kind::kString) return want(cat(kind_wanted(f), " for '", f.name, "'"));
      const Token at = token_;
      std::string text;
      while (token_.kind == Token::Kind::kString) {
        text += token_.text;
        TRY(advance());
      }
      if (const std::string p = placeholder_in(text); !p.empty()) {
        note_unset(p, at);
        return {};
      }
      v.data = std::move(text);
      m.field(f).values.push_back(std::move(v));
      return {};
    }
    TRY(scalar(f, v));
    m.field(f).values.push_back(std::move(v));
    return {};
  }

  Status scalar(const FieldType& f, Value& v) {
    const auto wrong = [&] { return want(cat(kind_wanted(f), " for '", f.name, "'", f.enumeration ? cat(" (", enum_names(*f.enumeration), ")") : "")); };
    if (token_.kind == Token::Kind::kString && !placeholder_in(token_.text).empty()) {
      return lexer_.error(token_, cat("found the string ", quote_text_proto(token_.text), " for '", f.name, "', want ", kind_wanted(f), " without quotes"));
    }
    bool negative = false;
    if (symbol('-')) {
      negative = true;
      TRY(advance());
    }
    const bool number = token_.kind == Token::Kind::kNumber, name = token_.kind == Token::Kind::kName;
    if (f.kind == FieldKind::kBool) {
      const std::string& t = token_.text;
      const bool yes = (name && (t == "true" || t == "True" || t == "t")) || (number && t == "1");
      const bool no = (name && (t == "false" || t == "False" || t == "f")) || (number && t == "0");
      if (negative || (!yes && !no)) return wrong();
      v.data = yes;
      return advance();
    }
    if (f.kind == FieldKind::kEnum && name) {
      const EnumValue* e = find_enum(*f.enumeration, token_.text);
      if (!e || negative) return wrong();
      v.data = static_cast<int64_t>(e->number);
      return advance();
    }
    if (f.kind == FieldKind::kFloat || f.kind == FieldKind::kDouble) {
      double d = 0;
      if (name && (token_.text == "inf" || token_.text == "infinity")) d = std::numeric_limits<double>::infinity();
      else if (name && token_.text == "nan") d = std::numeric_limits<double>::quiet_NaN();
      else if (!number) return wrong();
      else {
        std::string_view s = token_.text;
        if (s.size() > 1 && (s.back() == 'f' || s.back() == 'F') && !s.starts_with("0x")) s.remove_suffix(1);
        if (auto whole = magnitude(s); whole.ok()) {
          d = static_cast<double>(*whole);
        } else {
          auto [end, code] = std::from_chars(s.data(), s.data() + s.size(), d);
          if (end != s.data() + s.size() || (code != std::errc() && code != std::errc::result_out_of_range)) return wrong();
        }
      }
      v.data = negative ? -d : d;
      return advance();
    }
    if (!number) return wrong();
    const auto whole = magnitude(token_.text);
    if (!whole.ok() || !fit_integer(f.kind, negative, *whole, v)) return wrong();
    if (f.kind == FieldKind::kEnum) {
      bool known = false;
      for (const EnumValue& e : f.enumeration->values) known |= e.number == std::get<int64_t>(v.data);
      if (!known) return wrong();
    }
    return advance();
  }

  Lexer lexer_;
  Token token_;
  std::string path_;
  std::vector<int> opened_;  // lines of the messages that are open
  std::vector<Unset>* unset_;
};

std::string snake_case(std::string_view name) {
  std::string out;
  for (char c : name) {
    if (c >= 'A' && c <= 'Z') {
      out += '_';
      out += static_cast<char>(c - 'A' + 'a');
    } else {
      out += c;
    }
  }
  return out;
}

class JsonReader {
 public:
  explicit JsonReader(std::string_view what) : what_(what) {}

  Result<Message> object(const Json& j, const MessageType& type, const std::string& path) const {
    if (!j.is_object()) return wrong(j, path, "an object");
    Message m(type);
    for (auto it = j.begin(); it != j.end(); ++it) {
      const FieldType* f = type.find(it.key());
      if (!f) f = type.find(snake_case(it.key()));
      if (!f) return Error(Code::kInvalidArgument, cat(what_, path.empty() ? "" : " at ", path, ": ", unknown_field(type, it.key())));
      if (it->is_null()) continue;
      const std::string at = cat(path, path.empty() ? "" : ".", f->name);
      if (const FieldType* other = m.oneof_taken(*f))
        return Error(Code::kInvalidArgument, cat(what_, " at ", at, ": found beside '", other->name, "', want only one of them in ", type.name));
      Message::Field& field = m.field(*f);
      field.values.clear();
      if (f->map) {
        if (!it->is_object()) return wrong(*it, at, "an object");
        for (auto entry = it->begin(); entry != it->end(); ++entry) {
          auto pair = std::make_unique<Message>(*f->message);
          Value key;
          TRY(value(Json(entry.key()), f->message->fields[0], cat(at, " key"), key));
          pair->field(f->message->fields[0]).values.push_back(std::move(key));
          Value v;
          TRY(value(*entry, f->message->fields[1], cat(at, "[\"", entry.key(), "\"]"), v));
          pair->field(f->message->fields[1]).values.push_back(std::move(v));
          Value boxed;
          boxed.data = std::move(pair);
          field.values.push_back(std::move(boxed));
        }
      } else if (f->repeated) {
        if (!it->is_array()) return wrong(*it, at, "an array");
        for (size_t i = 0; i < it->size(); ++i) {
          Value v;
          TRY(value((*it)[i], *f, cat(at, "[", i, "]"), v));
          field.values.push_back(std::move(v));
        }
      } else {
        Value v;
        TRY(value(*it, *f, at, v));
        field.values.push_back(std::move(v));
      }
    }
    return m;
  }

 private:
  Error wrong(const Json& j, const std::string& path, std::string_view wanted) const {
    std::string found = dump_json(j);
    if (found.size() > 40) found = found.substr(0, 40) + "...";
    return Error(Code::kInvalidArgument, cat(what_, path.empty() ? "" : " at ", path, ": found ", found, ", want ", wanted));
  }

  Status value(const Json& j, const FieldType& f, const std::string& path, Value& v) const {
    switch (f.kind) {
      case FieldKind::kMessage:
        v.data = std::make_unique<Message>(TRY(object(j, *f.message, path)));
        return {};
      case FieldKind::kString:
        if (!j.is_string()) break;
        v.data = j.get<std::string>();
        return {};
      case FieldKind::kBool:
        if (!j.is_boolean()) break;
        v.data = j.get<bool>();
        return {};
      case FieldKind::kFloat:
      case FieldKind::kDouble: {
        if (j.is_number()) {
          v.data = j.get<double>();
          return {};
        }
        if (!j.is_string()) break;
        auto d = parse_double(j.get<std::string>(), path);
        if (!d.ok()) break;
        v.data = *d;
        return {};
      }
      default: {
        if (f.kind == FieldKind::kEnum && j.is_string()) {
          const EnumValue* e = find_enum(*f.enumeration, j.get<std::string>());
          if (!e) return wrong(j, path, enum_names(*f.enumeration));
          v.data = static_cast<int64_t>(e->number);
          return {};
        }
        std::string text;
        if (j.is_string()) text = j.get<std::string>();
        else if (j.is_number_integer() || j.is_number_unsigned()) text = dump_json(j);
        else break;
        const bool negative = text.starts_with('-');
        if (negative) text.erase(0, 1);
        const auto whole = magnitude(text);
        if (whole.ok() && fit_integer(f.kind, negative, *whole, v)) {
          if (f.kind == FieldKind::kEnum) {
            bool known = false;
            for (const EnumValue& e : f.enumeration->values) known |= e.number == std::get<int64_t>(v.data);
            if (!known) break;
          }
          return {};
        }
      }
    }
    return wrong(j, path, f.kind == FieldKind::kMessage ? "an object" : kind_wanted(f));
  }

  std::string_view what_;
};

}  // namespace

Result<Message> parse_text_proto(std::string_view text, std::string_view file, const MessageType& type, std::vector<Unset>* unset) {
  return Parser(text, file, unset).parse(type);
}

Result<Message> parse_json_proto(std::string_view json, std::string_view what, const MessageType& type) {
  const Json j = TRY(parse_json(json, what));
  return JsonReader(what).object(j, type, "");
}

std::string quote_text_proto(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<uint8_t>(c) < 0x20 || static_cast<uint8_t>(c) == 0x7F) {
      const auto u = static_cast<uint8_t>(c);
      out += '\\';
      out += static_cast<char>('0' + (u >> 6));
      out += static_cast<char>('0' + (u >> 3 & 7));
      out += static_cast<char>('0' + (u & 7));
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace ingot::repository
