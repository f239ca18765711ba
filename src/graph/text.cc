// The text form: one statement a line, `#` starts a comment.
//
//   %tokens:[T,1]i32 %x:[R,64] = input
//   constant "inv_freq":[1,2] = 1 0.01
//   %y %s = add_rms_norm %x %r weight="n" eps=1e-05
//   %z = linear %y weight="a"[0:32]+"b":[64,32] weight="c":[1,64]
//   output %z
//
// A weight is the tensor parts joined by +; a part without a range is the whole tensor; the name given before `=` (name="a#fc") stands
// where it is not the joined tensor names. The shape may be left out where the op decides it (norms).
#include <cctype>
#include <charconv>

#include "graph/graph.h"

namespace ingot::graph {
namespace {

std::string default_name(const std::vector<WeightPart>& parts) {
  std::string name;
  for (const WeightPart& p : parts) name += cat(name.empty() ? "" : "+", p.tensor);
  return name;
}

std::string shape_text(const WeightShape& s) {
  return s.experts ? cat("[", s.experts, ",", s.n, ",", s.k, "]") : cat("[", s.n, ",", s.k, "]");
}

std::string type_text(const Type& t) {
  return cat("[", t.rows == INGOT_ROWS_LOGITS ? "R," : "T,", t.width, "]", t.integer ? "i32" : "");
}

std::string weight_text(const Weight& w) {
  if (w.parts.empty()) return cat(" constant=\"", w.name, "\"");
  std::string out = " weight=";
  if (w.name != default_name(w.parts)) out += cat("\"", w.name, "\"=");
  const bool ranges = !(w.parts.size() == 1 && w.parts[0].begin == 0 && w.parts[0].rows == w.shape.n);
  for (size_t i = 0; i < w.parts.size(); ++i) {
    const WeightPart& p = w.parts[i];
    out += cat(i ? "+" : "", "\"", p.tensor, "\"");
    if (ranges) out += cat("[", p.begin, ":", p.begin + p.rows, "]");
  }
  return out + ":" + shape_text(w.shape);
}

struct Token {
  enum Kind { kEnd, kWord, kValue, kString, kNumber, kPunctuation } kind = kEnd;
  std::string text;
  double number = 0;
};

class Parser {
 public:
  Parser(std::string_view text, std::string_view what) : text_(text), what_(what) {}

  Result<Graph> run() {
    while (at_ < text_.size()) {
      ++line_;
      const size_t end = std::min(text_.find('\n', at_), text_.size());
      rest_ = text_.substr(at_, end - at_);
      at_ = end + 1;
      TRY(next());
      if (token_.kind == Token::kEnd) continue;
      TRY(statement());
    }
    if (Status s = verify(g_); !s) return s.error().in(what_);
    return std::move(g_);
  }

 private:
  Error error(std::string_view want) const {
    return Error(Code::kInvalidArgument, cat(what_, ":", line_, ": found ", token_.kind == Token::kEnd ? "the end of the line" : cat("'", token_.text, "'"),
                                             ", want ", want));
  }

  Status next() {
    while (!rest_.empty() && std::isspace(static_cast<unsigned char>(rest_[0]))) rest_.remove_prefix(1);
    token_ = {};
    if (rest_.empty() || rest_[0] == '#') return {};
    const auto is_name = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.'; };
    size_t n = 1;
    const char c = rest_[0];
    if (c == '"') {
      n = rest_.find('"', 1);
      if (n == std::string_view::npos) return Error(Code::kInvalidArgument, cat(what_, ":", line_, ": a string is not closed"));
      token_ = {Token::kString, std::string(rest_.substr(1, n - 1)), 0};
      ++n;
    } else if (c == '%') {
      while (n < rest_.size() && is_name(rest_[n])) ++n;
      token_ = {Token::kValue, std::string(rest_.substr(1, n - 1)), 0};
    } else if (std::isdigit(static_cast<unsigned char>(c)) || c == '-') {
      double number = 0;
      const auto r = std::from_chars(rest_.data(), rest_.data() + rest_.size(), number);
      if (r.ec != std::errc()) return Error(Code::kInvalidArgument, cat(what_, ":", line_, ": '", rest_.substr(0, 20), "' is not a number"));
      n = static_cast<size_t>(r.ptr - rest_.data());
      token_ = {Token::kNumber, std::string(rest_.substr(0, n)), number};
    } else if (std::isalpha(static_cast<unsigned char>(c))) {
      while (n < rest_.size() && is_name(rest_[n])) ++n;
      token_ = {Token::kWord, std::string(rest_.substr(0, n)), 0};
    } else {
      token_ = {Token::kPunctuation, std::string(1, c), 0};
    }
    rest_.remove_prefix(n);
    return {};
  }

  bool is(std::string_view punctuation) const { return token_.kind == Token::kPunctuation && token_.text == punctuation; }
  bool is_word(std::string_view word) const { return token_.kind == Token::kWord && token_.text == word; }

  Status expect(std::string_view punctuation) {
    if (!is(punctuation)) return error(cat("'", punctuation, "'"));
    return next();
  }

  Result<int64_t> integer() {
    if (token_.kind != Token::kNumber || token_.number != static_cast<double>(static_cast<int64_t>(token_.number)) || token_.number > 9e15)
      return error("an integer");
    const int64_t v = static_cast<int64_t>(token_.number);
    TRY(next());
    return v;
  }

  // [T,64]i32
  Result<Type> type() {
    Type t;
    TRY(expect("["));
    if (!is_word("T") && !is_word("R")) return error("rows: T or R");
    t.rows = token_.text == "R" ? INGOT_ROWS_LOGITS : INGOT_ROWS_TOKENS;
    TRY(next());
    TRY(expect(","));
    t.width = TRY(integer());
    TRY(expect("]"));
    if (is_word("i32")) {
      t.integer = true;
      TRY(next());
    }
    return t;
  }

  Result<WeightShape> shape() {
    std::vector<int64_t> e;
    TRY(expect("["));
    while (true) {
      e.push_back(TRY(integer()));
      if (!is(",")) break;
      TRY(next());
    }
    TRY(expect("]"));
    if (e.size() < 2 || e.size() > 3) return error("2 or 3 extents");
    return e.size() == 3 ? WeightShape{e[0], e[1], e[2]} : WeightShape{0, e[0], e[1]};
  }

  Result<std::string> string() {
    if (token_.kind != Token::kString) return error("a string");
    std::string s = std::move(token_.text);
    TRY(next());
    return s;
  }

  Result<Value> define(const std::string& name, Type t) {
    if (name.empty() || g_.find(name).valid())
      return Error(Code::kInvalidArgument, cat(what_, ":", line_, ": the value name '%", name, "' is empty or used twice"));
    g_.values.push_back({name, t});
    return Value{static_cast<int>(g_.values.size()) - 1};
  }

  Result<Value> use() {
    const Value v = g_.find(token_.text);
    if (token_.kind != Token::kValue || !v.valid()) return error("a value that is defined above");
    TRY(next());
    return v;
  }

  Status statement() {
    if (is_word("output")) {
      TRY(next());
      while (token_.kind != Token::kEnd) g_.outputs.push_back(TRY(use()));
      return {};
    }
    if (is_word("constant")) return constant();
    std::vector<std::string> names;
    std::vector<Type> types;
    while (token_.kind == Token::kValue) {
      names.push_back(token_.text);
      TRY(next());
      if (is(":")) {
        TRY(next());
        types.push_back(TRY(type()));
      }
    }
    if (names.empty()) return error("%value, constant or output");
    TRY(expect("="));
    if (is_word("input")) {
      if (types.size() != names.size()) return error("a type after each input, like %x:[T,64]");
      for (size_t i = 0; i < names.size(); ++i) g_.inputs.push_back(TRY(define(names[i], types[i])));
      return next();
    }
    return node(names);
  }

  Status constant() {
    TRY(next());
    Weight w;
    w.name = TRY(string());
    TRY(expect(":"));
    w.shape = TRY(shape());
    TRY(expect("="));
    while (token_.kind == Token::kNumber) {
      w.constant.push_back(static_cast<float>(token_.number));
      TRY(next());
    }
    if (token_.kind != Token::kEnd) return error("a number");
    return add_weight(std::move(w)).ok() ? Status() : error("a constant name that is not used yet");
  }

  Result<int> add_weight(Weight w) {
    const int found = g_.find_weight(w.name);
    if (found >= 0) {
      const Weight& old = g_.weights[static_cast<size_t>(found)];
      if (old.shape != w.shape || old.parts != w.parts || old.parts.empty())
        return Error(Code::kInvalidArgument, cat(what_, ":", line_, ": weight '", w.name, "' is used twice in different ways"));
      return found;
    }
    g_.weights.push_back(std::move(w));
    return static_cast<int>(g_.weights.size()) - 1;
  }

  // ["name"=]"tensor"[a:b]+"tensor":[n,k]
  Result<int> weight(const Node& n) {
    Weight w;
    std::string first = TRY(string());
    if (is("=")) {
      TRY(next());
      w.name = std::move(first);
      first = TRY(string());
    }
    bool ranges = false;
    while (true) {
      WeightPart p{std::move(first), 0, 0};
      if (is("[")) {
        ranges = true;
        TRY(next());
        p.begin = TRY(integer());
        TRY(expect(":"));
        p.rows = TRY(integer()) - p.begin;
        TRY(expect("]"));
      }
      w.parts.push_back(std::move(p));
      if (!is("+")) break;
      TRY(next());
      first = TRY(string());
    }
    if (w.name.empty()) w.name = default_name(w.parts);
    if (is(":")) {
      TRY(next());
      w.shape = TRY(shape());
    } else {
      std::vector<Type> in;
      for (Value v : n.in) in.push_back(g_.type(v));
      w.shape = op::implied_weight_shape(n.op, n.attrs, in, static_cast<int>(n.weights.size()));
      if (w.shape.k == 0) return error("the weight's shape, like :[64,32]");
    }
    if (!ranges) {
      if (w.parts.size() > 1) return error("a range of rows for each of several parts, like \"a\"[0:32]");
      w.parts[0].rows = w.shape.n;
    }
    return add_weight(std::move(w));
  }

  Status node(const std::vector<std::string>& names) {
    const op::OpInfo* info = token_.kind == Token::kWord ? op::find_op(token_.text) : nullptr;
    if (!info) return error("the name of an op");
    Node n;
    n.op = info->op;
    TRY(next());
    while (token_.kind == Token::kValue) n.in.push_back(TRY(use()));
    // Attributes first decide implied weight shapes, so weights are read in a second look at the rest of the line.
    const std::string_view saved_rest = rest_;
    const Token saved = token_;
    for (int look = 0; look < 2; ++look) {
      rest_ = saved_rest;
      token_ = saved;
      while (token_.kind == Token::kWord) {
        const std::string key = token_.text;
        TRY(next());
        TRY(expect("="));
        if (key == "weight" || key == "constant") {
          if (look == 0) {
            TRY(skip_weight());
          } else if (key == "weight") {
            n.weights.push_back(TRY(weight(n)));
          } else {
            const int w = g_.find_weight(token_.text);
            if (token_.kind != Token::kString || w < 0) return error("the name of a constant that is defined above");
            n.weights.push_back(w);
            TRY(next());
          }
          continue;
        }
        if (token_.kind != Token::kNumber) return error("a number");
        if (look == 0) {
          if (cat(" ", info->attributes, " ").find(cat(" ", key, " ")) == std::string::npos || !op::set_attribute(n.attrs, key, token_.number))
            return Error(Code::kInvalidArgument, cat(what_, ":", line_, ": ", info->name, " has no attribute '", key, "', it has: ", info->attributes));
        }
        TRY(next());
      }
    }
    if (token_.kind != Token::kEnd) return error("attribute=number, weight=\"name\" or the end of the line");
    std::vector<Type> in;
    std::vector<WeightShape> shapes;
    for (Value v : n.in) in.push_back(g_.type(v));
    for (int w : n.weights) shapes.push_back(g_.weights[static_cast<size_t>(w)].shape);
    Result<std::vector<Type>> out = op::infer(n.op, n.attrs, in, shapes);
    if (!out) return out.error().in(cat(what_, ":", line_));
    if (out->size() != names.size())
      return Error(Code::kInvalidArgument, cat(what_, ":", line_, ": ", info->name, " has ", out->size(), " outputs, found ", names.size()));
    for (size_t i = 0; i < names.size(); ++i) n.out.push_back(TRY(define(names[i], (*out)[i])));
    g_.nodes.push_back(std::move(n));
    return {};
  }

  // Everything up to the next `word =` or the end.
  Status skip_weight() {
    while (token_.kind != Token::kEnd && token_.kind != Token::kWord) TRY(next());
    return {};
  }

  std::string_view text_, rest_;
  std::string what_;
  size_t at_ = 0;
  int line_ = 0;
  Token token_;
  Graph g_;
};

}  // namespace

std::string print(const Graph& g) {
  std::string out;
  for (Value v : g.inputs) out += cat(out.empty() ? "" : " ", "%", g.name(v), ":", type_text(g.type(v)));
  if (!g.inputs.empty()) out += " = input\n";
  for (const Weight& w : g.weights) {
    if (!w.parts.empty()) continue;
    out += cat("constant \"", w.name, "\":", shape_text(w.shape), " =");
    for (float v : w.constant) out += cat(" ", v);
    out += "\n";
  }
  for (const Node& n : g.nodes) {
    for (Value v : n.out) out += cat("%", g.name(v), " ");
    const op::OpInfo& info = op::op_info(n.op);
    out += cat("= ", info.name);
    for (Value v : n.in) out += cat(" %", g.name(v));
    for (int w : n.weights) out += weight_text(g.weights[static_cast<size_t>(w)]);
    std::string_view names = info.attributes;
    while (!names.empty()) {
      const size_t end = std::min(names.find(' '), names.size());
      const std::string_view name = names.substr(0, end);
      if (const double v = op::attribute(n.attrs, name); v != 0) out += cat(" ", name, "=", v);
      names.remove_prefix(std::min(end + 1, names.size()));
    }
    out += "\n";
  }
  out += "output";
  for (Value v : g.outputs) out += cat(" %", g.name(v));
  return out + "\n";
}

Result<Graph> parse(std::string_view text, std::string_view what) { return Parser(text, what).run(); }

}  // namespace ingot::graph
