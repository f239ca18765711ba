#include "base/options.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>

namespace ingot {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

std::string dashed(std::string_view name) {
  std::string s(name);
  std::replace(s.begin(), s.end(), '_', '-');
  return s;
}

bool is_flag(std::string_view arg) {
  // "-1" and "-0.5" are values.
  return arg.size() >= 2 && arg[0] == '-' && !(arg[1] >= '0' && arg[1] <= '9') && arg[1] != '.';
}

std::string show(const OptionTable::Target& target) {
  return std::visit(Overloaded{
                        [](const bool* v) { return std::string(*v ? "true" : "false"); },
                        [](const std::string* v) { return v->empty() ? std::string("\"\"") : *v; },
                        [](const std::vector<std::string>* v) { return cat(*v); },
                        [](const std::optional<int>* v) { return *v ? cat(**v) : std::string("unset"); },
                        [](const std::optional<double>* v) { return *v ? cat(**v) : std::string("unset"); },
                        [](const std::optional<std::string>* v) { return *v ? **v : std::string("unset"); },
                        [](const auto* v) { return cat(*v); },
                    },
                    target);
}

const char* placeholder(const OptionTable::Target& target) {
  return std::visit(Overloaded{
                        [](const bool*) { return ""; },
                        [](const double*) { return "NUMBER"; },
                        [](const std::optional<double>*) { return "NUMBER"; },
                        [](const std::string*) { return "TEXT"; },
                        [](const std::optional<std::string>*) { return "TEXT"; },
                        [](const std::vector<std::string>*) { return "TEXT..."; },
                        [](const auto*) { return "N"; },
                    },
                    target);
}

std::string range(const OptionTable::Field& f) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  if (f.min == -kInf && f.max == kInf) return "";
  auto number = [](double d) { return d == static_cast<double>(static_cast<int64_t>(d)) ? cat(static_cast<int64_t>(d)) : cat(d); };
  if (f.max == kInf) return cat(">= ", number(f.min));
  if (f.min == -kInf) return cat("<= ", number(f.max));
  return cat(number(f.min), " .. ", number(f.max));
}

// Greedy line breaking; `indent` blanks before each line.
std::string wrap(std::string_view text, size_t indent, size_t columns) {
  std::string out;
  size_t column = columns;  // forces a fresh line first
  while (!text.empty()) {
    const size_t space = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, space);
    if (column + word.size() + 1 > columns) {
      if (!out.empty()) out += '\n';
      out.append(indent, ' ');
      column = indent;
    } else {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    text.remove_prefix(std::min(space + 1, text.size()));
  }
  return out;
}

}  // namespace

std::optional<bool> parse_bool(std::string_view text) {
  std::string s;
  for (char c : text) s += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  for (const char* word : {"true", "1", "yes", "on", "enable", "enabled"})
    if (s == word) return true;
  for (const char* word : {"false", "0", "no", "off", "disable", "disabled"})
    if (s == word) return false;
  return std::nullopt;
}

Result<int64_t> parse_int(std::string_view text, std::string_view what) {
  int64_t v = 0;
  auto r = std::from_chars(text.data(), text.data() + text.size(), v);
  if (text.empty() || r.ec != std::errc() || r.ptr != text.data() + text.size())
    return Error(Code::kInvalidArgument, cat(what, " is '", text, "', want an integer"));
  return v;
}

Result<double> parse_double(std::string_view text, std::string_view what) {
  double v = 0;
  auto r = std::from_chars(text.data(), text.data() + text.size(), v);
  if (text.empty() || r.ec != std::errc() || r.ptr != text.data() + text.size())
    return Error(Code::kInvalidArgument, cat(what, " is '", text, "', want a number"));
  return v;
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  std::string best;
  for (const std::string& c : candidates) {
    std::vector<size_t> row(c.size() + 1);
    for (size_t j = 0; j <= c.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= c.size(); ++j) {
        const size_t substitute = diagonal + (word[i - 1] != c[j - 1]);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
      }
    }
    if (row[c.size()] < best_distance) {
      best_distance = row[c.size()];
      best = c;
    }
  }
  return best;
}

void OptionTable::accept_without_effect(std::span<const char* const> names) {
  for (const char* n : names)
    if (std::find(ignored_.begin(), ignored_.end(), dashed(n)) == ignored_.end()) ignored_.push_back(dashed(n));
}

OptionTable::Field* OptionTable::find(std::string_view name) {
  std::string wanted = dashed(name);
  for (const Pair& a : aliases_)
    if (dashed(a.first) == wanted) {
      wanted = dashed(a.second);
      break;
    }
  for (Field& f : fields_)
    if (dashed(f.name) == wanted) return &f;
  return nullptr;
}

Status OptionTable::set(Field& f, std::string_view value, const char* origin) {
  const std::string what = cat(origin == std::string_view("flag") ? "--" : "", f.name);
  auto in_range = [&](double v) -> Status {
    if (v >= f.min && v <= f.max) return {};
    const std::string allowed = range(f);
    return Error(Code::kInvalidArgument, cat(what, " is ", value, ", ", allowed.empty() ? "want a number" : cat("allowed is ", allowed)));
  };
  auto integer = [&](auto& out) -> Status {
    using T = std::remove_reference_t<decltype(out)>;
    const int64_t v = TRY(parse_int(value, what));
    TRY(in_range(static_cast<double>(v)));
    if (static_cast<int64_t>(static_cast<T>(v)) != v || (std::is_unsigned_v<T> && v < 0))
      return Error(Code::kInvalidArgument, cat(what, " is ", value, ", which does not fit"));
    out = static_cast<T>(v);
    return {};
  };
  auto number = [&](double& out) -> Status {
    const double v = TRY(parse_double(value, what));
    TRY(in_range(v));
    out = v;
    return {};
  };
  Status s = std::visit(
      Overloaded{
          [&](bool* v) -> Status {
            std::optional<bool> b = parse_bool(value);
            if (!b) return Error(Code::kInvalidArgument, cat(what, " is '", value, "', want true or false"));
            *v = *b;
            return {};
          },
          [&](std::string* v) -> Status {
            *v = value;
            return {};
          },
          [&](std::vector<std::string>* v) -> Status {
            v->emplace_back(value);
            return {};
          },
          [&](double* v) -> Status { return number(*v); },
          [&](std::optional<std::string>* v) -> Status {
            v->emplace(value);
            return {};
          },
          [&](std::optional<int>* v) -> Status {
            int i = 0;
            TRY(integer(i));
            *v = i;
            return {};
          },
          [&](std::optional<double>* v) -> Status {
            double d = 0;
            TRY(number(d));
            *v = d;
            return {};
          },
          [&](auto* v) -> Status { return integer(*v); },
      },
      f.target);
  if (s.ok()) f.origin = origin;
  return s;
}

Error OptionTable::unknown(std::string_view flag) const {
  std::vector<std::string> names;
  for (const Field& f : fields_) names.push_back(f.name);
  for (const Pair& a : aliases_) names.push_back(dashed(a.first));
  const std::string close = nearest(dashed(flag), names);
  size_t command = usage_.find(' ');  // "ingot build" of the usage line
  if (command != usage_.npos) command = usage_.find(' ', command + 1);
  return Error(Code::kInvalidArgument, cat("unknown flag --", flag, close.empty() ? "" : cat("; did you mean --", close, "?"), " (",
                                           usage_.substr(0, command), " --help lists all)"));
}

Result<std::vector<std::string>> OptionTable::parse(std::span<const std::string> args) {
  std::vector<std::string> rest;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--") {
      rest.insert(rest.end(), args.begin() + static_cast<ptrdiff_t>(i) + 1, args.end());
      break;
    }
    if (!is_flag(arg)) {
      rest.push_back(arg);
      continue;
    }
    std::string_view name = std::string_view(arg).substr(arg.starts_with("--") ? 2 : 1);
    std::optional<std::string_view> value;
    if (const size_t eq = name.find('='); eq != name.npos) {
      value = name.substr(eq + 1);
      name = name.substr(0, eq);
    }
    for (const Pair& r : refused_)
      if (dashed(r.first) == dashed(name)) return Error(Code::kUnsupported, cat("--", name, ": ", r.second));
    Field* f = find(name);
    if (!f && name.starts_with("no-")) {
      f = find(name.substr(3));
      if (f && std::holds_alternative<bool*>(f->target) && !value) {
        TRY(set(*f, "false", "flag"));
        continue;
      }
      f = nullptr;
    }
    if (!f) {
      if (std::find(ignored_.begin(), ignored_.end(), dashed(name)) == ignored_.end()) return unknown(name);
      if (!value)
        while (i + 1 < args.size() && !is_flag(args[i + 1])) ++i;
      ignored_seen_.push_back(std::string(name));
      continue;
    }
    if (std::holds_alternative<bool*>(f->target)) {
      if (!value && i + 1 < args.size() && parse_bool(args[i + 1])) value = args[++i];
      TRY(set(*f, value.value_or("true"), "flag"));
    } else if (auto* list = std::get_if<std::vector<std::string>*>(&f->target)) {
      if (f->origin != std::string_view("flag")) (*list)->clear();
      if (value) {
        TRY(set(*f, *value, "flag"));
      } else {
        const size_t before = i;
        while (i + 1 < args.size() && !is_flag(args[i + 1])) TRY(set(*f, args[++i], "flag"));
        if (i == before) return Error(Code::kInvalidArgument, cat("--", name, " needs at least one value"));
      }
    } else {
      if (!value) {
        if (i + 1 >= args.size() || (is_flag(args[i + 1]) && args[i + 1].starts_with("--")))
          return Error(Code::kInvalidArgument, cat("--", name, " needs a value (", placeholder(f->target), ")"));
        value = args[++i];
      }
      TRY(set(*f, *value, "flag"));
    }
  }
  return rest;
}

Status OptionTable::read_json(const Json& object, std::string_view what) {
  if (!object.is_object()) return Error(Code::kInvalidArgument, cat(what, " is a JSON ", json_type(object), ", want an object"));
  for (const auto& [key, value] : object.items()) {
    Field* f = find(key);
    if (!f) return unknown(key).in(what);
    auto text = [](const Json& v) { return v.is_string() ? v.get<std::string>() : dump_json(v); };
    if (auto* list = std::get_if<std::vector<std::string>*>(&f->target); list && value.is_array()) {
      (*list)->clear();
      for (const Json& e : value) (*list)->push_back(text(e));
      f->origin = "file";
    } else if (Status s = set(*f, text(value), "file"); !s.ok()) {
      return s.error().in(what);
    }
  }
  return {};
}

Status OptionTable::read_environment(std::string_view prefix) {
  for (Field& f : fields_) {
    std::string name(prefix);
    for (char c : f.name) name += c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    if (const char* value = std::getenv(name.c_str()))
      if (Status s = set(f, value, "environment"); !s.ok()) return s.error().in(name);
  }
  return {};
}

bool OptionTable::was_set(std::string_view name) const {
  for (const Field& f : fields_)
    if (dashed(f.name) == dashed(name)) return f.origin != std::string_view("default");
  return false;
}

std::string OptionTable::help() const {
  std::string out = cat("usage: ", usage_, "\n");
  if (!about_.empty()) out += cat("\n", about_, "\n");
  std::string section = "\n";  // no section has this name: the first heading is always printed
  for (const Field& f : fields_) {
    if (f.section != section) {
      section = f.section;
      out += cat("\n", section.empty() ? "options" : section, ":\n");
    }
    std::string head = cat("  --", f.name, *placeholder(f.target) ? " " : "", placeholder(f.target));
    std::string text = f.help;
    const std::string allowed = range(f), value = show(f.target);
    if (!allowed.empty()) text += cat(" (", allowed, ")");
    if (value != "\"\"" && value != "[]" && value != "unset" && value != "false") text += cat(" [", value, "]");
    std::string body = wrap(text, 34, 100);
    if (head.size() < 33) body.replace(0, head.size(), head);
    else body = cat(head, "\n", body);
    out += cat(body, "\n");
  }
  if (!aliases_.empty()) {
    out += "\nother spellings:\n";
    for (const Pair& a : aliases_) out += cat("  --", a.first, " = --", a.second, "\n");
  }
  if (!ignored_.empty()) {
    std::string names;
    for (const std::string& n : ignored_) names += cat(names.empty() ? "" : ", ", n);
    out += cat("\naccepted for old scripts, without effect here:\n", wrap(names, 2, 100), "\n");
  }
  return out;
}

std::string OptionTable::effective() const {
  std::string out;
  for (const Field& f : fields_)
    if (f.origin != std::string_view("default")) out += cat(out.empty() ? "" : ", ", f.name, " = ", show(f.target), " (", f.origin, ")");
  return out;
}

std::string OptionTable::markdown() const {
  std::string out = "| flag | default | meaning |\n|---|---|---|\n";
  for (const Field& f : fields_) {
    const std::string allowed = range(f);
    out += cat("| `--", f.name, "` | ", show(f.target), " | ", f.help, allowed.empty() ? "" : cat(" (", allowed, ")"), " |\n");
  }
  return out;
}

}  // namespace ingot
