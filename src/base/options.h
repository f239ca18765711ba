// Options: one struct per concern; its fields() is the single source of flags, file keys, environment names, help and range errors.
//
//   struct RunOptions {
//     int max_output_len = 128;
//     template <class Self, class V> static void fields(Self& o, V&& v) {
//       v("max-output-len", o.max_output_len, "Tokens to generate at most.", 1, 1 << 20);
//     }
//   };
//   RunOptions o; OptionTable table("ingot run"); table.add(o);
//   std::vector<std::string> rest = TRY(table.parse(args));        // what is left: positional arguments
//
// A flag may be spelled with '-' or '_', as --name value or --name=value; booleans also alone (--name) or negated (--no-name).
// Default < file < environment < flag. Thread rule: one thread; the table points into the structs it was given.
#pragma once

#include <limits>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace ingot {

class OptionTable {
 public:
  using Target = std::variant<bool*, int*, int64_t*, uint64_t*, double*, std::string*, std::vector<std::string>*, std::optional<int>*,
                              std::optional<double>*, std::optional<std::string>*>;
  struct Field {
    std::string name;  // with '-'
    Target target;
    std::string help, section;
    double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
    const char* origin = "default";  // "file", "environment", "flag"
  };

  // `usage` is the first line of the help: "ingot build --checkpoint_dir DIR --output_dir DIR".
  explicit OptionTable(std::string usage, std::string about = "") : usage_(std::move(usage)), about_(std::move(about)) {}

  template <class T>
  void add(T& options, std::string section = "") {
    section_ = std::move(section);
    T::fields(options, *this);
  }
  // Visitor face, called by fields().
  template <class M>
  void operator()(const char* name, M& member, const char* help) {
    fields_.push_back({name, Target(&member), help, section_});
  }
  template <class M>
  void operator()(const char* name, M& member, const char* help, double min, double max) {
    fields_.push_back({name, Target(&member), help, section_, min, max});
  }

  // Another spelling of a flag.
  void alias(std::string old_name, std::string name) { aliases_.push_back({std::move(old_name), std::move(name)}); }
  // Flags of the old tools without an effect here: accepted with any values, and said once on stderr.
  void accept_without_effect(std::span<const char* const> names);
  // Flags of the old tools for something that is not built: an error that says what it is.
  void refuse(std::string name, std::string why) { refused_.push_back({std::move(name), std::move(why)}); }

  // Reads flags; returns positional arguments in order ("--" ends flags). A list flag takes all values up to the next flag and, given
  // again, goes on collecting. An unknown flag is an error that names the nearest known one.
  Result<std::vector<std::string>> parse(std::span<const std::string> args);
  Status read_json(const Json& object, std::string_view what);  // file keys: the flag names, '-' or '_'
  Status read_environment(std::string_view prefix = "INGOT_");  // INGOT_MAX_OUTPUT_LEN

  bool was_set(std::string_view name) const;
  std::string help() const;            // for a terminal, 100 columns
  std::string effective() const;       // "name = value (origin)" of every value that is no default
  std::string markdown() const;        // table for the docs
  const std::vector<std::string>& without_effect() const { return ignored_seen_; }

 private:
  struct Pair {
    std::string first, second;
  };
  Field* find(std::string_view name);
  Status set(Field& field, std::string_view value, const char* origin);
  Error unknown(std::string_view flag) const;

  std::string usage_, about_, section_;
  std::vector<Field> fields_;
  std::vector<Pair> aliases_, refused_;
  std::vector<std::string> ignored_, ignored_seen_;
};

// "true", "True", "1", "yes", "on", "enable" and their opposites.
std::optional<bool> parse_bool(std::string_view text);
Result<int64_t> parse_int(std::string_view text, std::string_view what);
Result<double> parse_double(std::string_view text, std::string_view what);
// The candidate with the smallest edit distance, if it is close enough to be a slip of the pen; "" otherwise.
std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace ingot
