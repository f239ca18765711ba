#include "cpu/internal/profile.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

namespace ingot::cpu {
namespace {

constexpr double kPause = 0.02;
constexpr const char* kNames[] = {"1 token", "2 to 15 tokens", "16 to 63 tokens", "64 tokens and more"};

}  // namespace

void Profile::begin(int tokens, double now) {
  Class* next = &classes_[tokens <= 1 ? 0 : tokens < 16 ? 1 : tokens < 64 ? 2 : 3];
  const Class* last = std::exchange(class_, next);
  ++class_->steps;
  class_->tokens += tokens;
  // A longer pause is one without requests.
  if (last == class_ && now - end_ < kPause) add("(between steps)", now - end_);
  begin_ = now;
}

void Profile::add(const char* what, double seconds) {
  Line& line = class_->lines[what];
  ++line.calls;
  line.seconds += seconds;
}

void Profile::end(double now) {
  class_->seconds += now - begin_;
  end_ = now;
}

std::string Profile::table() const {
  std::string out;
  char text[160];
  for (int i = 0; i < 4; ++i) {
    const Class& c = classes_[i];
    if (c.steps == 0) continue;
    const double steps = static_cast<double>(c.steps);
    std::snprintf(text, sizeof text, "steps of %s: %lld, mean %.1f tokens, %.3f ms\n", kNames[i], static_cast<long long>(c.steps),
                  static_cast<double>(c.tokens) / steps, c.seconds / steps * 1e3);
    out += text;
    std::vector<std::pair<std::string_view, Line>> lines(c.lines.begin(), c.lines.end());
    std::sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    for (const auto& [name, line] : lines) {
      std::snprintf(text, sizeof text, "  %-32.*s %6.1f calls %10.1f us %6.1f %%\n", static_cast<int>(name.size()), name.data(),
                    static_cast<double>(line.calls) / steps, line.seconds / steps * 1e6, c.seconds > 0 ? line.seconds / c.seconds * 100 : 0.0);
      out += text;
    }
  }
  return out;
}

}  // namespace ingot::cpu
