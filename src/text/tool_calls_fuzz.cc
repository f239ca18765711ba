// Any text as a model's answer, cut at any place: the result must not depend on the cut, and text that is no call must not change.
// The first byte chooses format and cut.
#include <cstdlib>

#include "text/tool_calls.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ingot::text;
  if (size == 0) return 0;
  const auto format = static_cast<ToolFormat>(data[0] % 5);
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t cut = text.empty() ? 0 : (data[0] / 5 * 37u) % text.size();
  auto run = [&](std::initializer_list<std::string_view> deltas) {
    ToolCallParser parser(format);
    ParsedDelta all;
    auto add = [&](ParsedDelta d) {
      all.content += d.content;
      all.calls.insert(all.calls.end(), d.calls.begin(), d.calls.end());
    };
    for (std::string_view d : deltas) add(parser.push(d));
    add(parser.finish());
    return all;
  };
  const ParsedDelta whole = run({text}), parts = run({text.substr(0, cut), text.substr(cut)});
  if (whole.content != parts.content || whole.calls != parts.calls) std::abort();
  if (whole.calls.empty() && whole.content != text) std::abort();

  auto reason = [&](std::initializer_list<std::string_view> deltas) {
    ReasoningParser parser(data[0] & 1);
    std::string reasoning, content;
    for (std::string_view d : deltas) {
      ReasoningDelta r = parser.push(d);
      reasoning += r.reasoning;
      content += r.content;
    }
    ReasoningDelta r = parser.finish();
    return std::pair(reasoning + r.reasoning, content + r.content);
  };
  if (reason({text}) != reason({text.substr(0, cut), text.substr(cut)})) std::abort();
  return 0;
}
