#include "text/detokenizer.h"

#include <algorithm>

#include "text/internal/strings.h"

namespace ingot::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// The sequence that starts at s[0] (Unicode 15, table 3-7). `size` bytes belong to it: a whole character if `valid`; otherwise the
// maximal part that one U+FFFD replaces, or, if `open`, a start that more bytes may complete.
struct Sequence {
  size_t size = 1;
  bool valid = false, open = false;
};

Sequence sequence(std::string_view s) {
  auto at = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t want = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned low = 0x80, high = 0xBF;  // the second byte's range keeps overlong forms, surrogates and values past U+10FFFF out
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < want; ++i) {
    if (i == s.size()) return {i, false, true};
    if (at(i) < low || at(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {want, true, false};
}

}  // namespace

void take_utf8(std::string& bytes, std::string& out, bool all) {
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const Sequence s = sequence(rest);
    if (s.open && !all) break;
    out += s.valid ? rest.substr(0, s.size) : kReplacement;
    rest.remove_prefix(s.size);
  }
  bytes.erase(0, bytes.size() - rest.size());
}

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, DetokenizerOptions options)
    : tokenizer_(std::move(tokenizer)), options_(options) {
  at_start_ = tokenizer_->strips_leading_space() && !options_.continues_text;
}

void Detokenizer::append(int32_t id) {
  if (options_.skip_special && tokenizer_->is_special(id)) return;
  std::string_view bytes = tokenizer_->token_bytes(id);
  if (at_start_ && !bytes.empty()) {
    if (bytes[0] == ' ') bytes.remove_prefix(1);
    at_start_ = false;
  }
  bytes_ += bytes;
}

std::string Detokenizer::take(bool all) {
  take_utf8(bytes_, text_, all);
  const std::string& newline = tokenizer_->info().newline_text;
  if (newline.empty()) return std::exchange(text_, {});
  std::string_view rest = text_;
  std::string out;
  for (size_t at; (at = rest.find(newline)) != rest.npos; rest.remove_prefix(at + newline.size())) {
    out += rest.substr(0, at);
    out += '\n';
  }
  const size_t held = all ? 0 : partial_suffix(rest, newline);
  out += rest.substr(0, rest.size() - held);
  text_ = std::string(rest.substr(rest.size() - held));
  return out;
}

std::string Detokenizer::push(int32_t id) {
  append(id);
  return take(false);
}

std::string Detokenizer::push(std::span<const int32_t> ids) {
  for (int32_t id : ids) append(id);
  return take(false);
}

std::string Detokenizer::finish() { return take(true); }

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop) : stops_(std::move(stops)), include_stop_(include_stop) {
  std::erase_if(stops_, [](const std::string& s) { return s.empty(); });
}

// The match that ends first wins, of several that end together the longest: what a reader of single characters would see, so the
// result does not depend on how the text arrives.
std::string StopMatcher::push(std::string_view delta) {
  if (stopped_) return {};
  held_ += delta;
  size_t best_end = std::string::npos, best_start = 0;
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    if (const size_t at = held_.find(stop); at != held_.npos) {
      const size_t end = at + stop.size();
      if (end < best_end || (end == best_end && at < best_start)) {
        best_end = end;
        best_start = at;
      }
    }
    keep = std::max(keep, partial_suffix(held_, stop));
  }
  if (best_end != std::string::npos) {
    stopped_ = true;
    matched_ = held_.substr(best_start, best_end - best_start);
    std::string out = held_.substr(0, include_stop_ ? best_end : best_start);
    held_.clear();
    return out;
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace ingot::text
