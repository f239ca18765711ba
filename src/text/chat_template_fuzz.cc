// Any template over a small chat: it is refused, fails with a line, or renders; it never ends the process nor runs on. Half of the inputs are
// templates as they stand, the others pick words of the language, which reach deeper.
#include <cstdlib>

#include "text/chat_template.h"

namespace {

constexpr std::string_view kWords[] = {
    "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{#", "#}", "\n", "if ", "elif ", "else", "endif", "for ", "i ", "in ", "endfor", "recursive", "set ", "endset",
    "ns.x ", "ns.y ", "= ", "namespace(x=[1], y='a')", "ns ", "macro m(a, b=1)", "endmacro", "m(", "call ", "endcall", "caller()", "filter ", "endfilter", "with ",
    "endwith", "do ", "break", "continue", "raw", "endraw", "generation", "endgeneration", "loop", "loop(", "loop.index", "loop.changed(", "messages", "range(99999)",
    "range(", "dict(", "cycler(", "joiner(", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|", "+ ", "- ", "* ", "/ ", "// ", "% ", "** ", "~ ", "== ", "!= ", "< ", "not ",
    "and ", "or ", "is ", "defined", "string", "'a'", "'%s'", "'{}'", "''", "0", "1", "-1", "1e9", "99999999", "none", "true", "role", "content", "upper", "join(", "replace(",
    "sort", "map(", "select(", "batch(", "slice(", "groupby(", "unique", "list", "tojson", "indent(", "length", "items()", "keys()", "format(", "split(", "strip(", "count(",
    "center(", "attr(", "sum(", "first", "last", "reverse", "truncate(", "urlencode", "varargs", "kwargs", "*", "**", "1:", "::-1",
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::text;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string source;
  if (data[0] & 1) {
    source = bytes;
  } else {
    source = "{% set ns = namespace(x=[1], y='a') %}";
    for (const char c : bytes) source += kWords[static_cast<uint8_t>(c) % std::size(kWords)];
  }
  static const ingot::Json kMessages = ingot::Json::parse(R"([{"role":"user","content":"Hello there"},{"role":"assistant","content":[{"type":"text","text":"x"}],"n":1.5}])");
  TokenizerInfo info;
  info.chat_template = source;
  auto chat = ChatTemplate::create(info);
  if (!chat.ok()) return 0;
  auto text = (*chat)->render({.messages = kMessages});
  if (!text.ok() && text.error().message().find("chat template: line ") != 0) std::abort();
  return 0;
}
