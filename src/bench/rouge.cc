#include "bench/rouge.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace ingot::bench {
namespace {

using Words = std::vector<std::string>;

Words words_of(std::string_view text) {
  Words words;
  bool open = false;
  for (char c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (letter) {
      if (!open) words.emplace_back();
      words.back() += c;
    }
    open = letter;
  }
  return words;
}

double f_measure(double hits, size_t answer, size_t reference) {
  if (hits == 0) return 0;
  const double precision = hits / static_cast<double>(answer), recall = hits / static_cast<double>(reference);
  return 2 * precision * recall / (precision + recall);
}

double n_gram_score(const Words& reference, const Words& answer, size_t n) {
  if (reference.size() < n || answer.size() < n) return 0;
  const auto counts = [n](const Words& w) {
    std::map<Words, int> c;
    for (size_t i = 0; i + n <= w.size(); ++i) ++c[Words(w.begin() + static_cast<std::ptrdiff_t>(i), w.begin() + static_cast<std::ptrdiff_t>(i + n))];
    return c;
  };
  const std::map<Words, int> want = counts(reference);
  double hits = 0;
  for (const auto& [gram, times] : counts(answer))
    if (auto it = want.find(gram); it != want.end()) hits += std::min(times, it->second);
  return f_measure(hits, answer.size() - n + 1, reference.size() - n + 1);
}

// Lengths of the longest common subsequence of all prefixes.
std::vector<std::vector<int>> lcs_table(const Words& a, const Words& b) {
  std::vector<std::vector<int>> t(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) t[i][j] = a[i - 1] == b[j - 1] ? t[i - 1][j - 1] + 1 : std::max(t[i - 1][j], t[i][j - 1]);
  return t;
}

// Marks the words of `reference` that one longest common subsequence uses; where several exist, the one rouge_score's walk finds.
void mark_lcs(const Words& reference, const Words& answer, std::vector<bool>& marked) {
  const auto t = lcs_table(reference, answer);
  size_t i = reference.size(), j = answer.size();
  while (i > 0 && j > 0) {
    if (reference[i - 1] == answer[j - 1]) {
      marked[i - 1] = true;
      --i;
      --j;
    } else if (t[i][j - 1] > t[i - 1][j]) {
      --j;
    } else {
      --i;
    }
  }
}

std::vector<Words> sentences(std::string_view text) {
  std::vector<Words> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) out.push_back(words_of(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return out;
}

// Union of the subsequences that each reference sentence shares with the answer's sentences, each word counted once.
double summary_score(std::string_view reference_text, std::string_view answer_text) {
  const std::vector<Words> reference = sentences(reference_text), answer = sentences(answer_text);
  size_t reference_words = 0, answer_words = 0;
  std::map<std::string, int> left_reference, left_answer;
  for (const Words& s : reference)
    for (const std::string& w : s) ++left_reference[w], ++reference_words;
  for (const Words& s : answer)
    for (const std::string& w : s) ++left_answer[w], ++answer_words;
  double hits = 0;
  for (const Words& r : reference) {
    std::vector<bool> marked(r.size());
    for (const Words& a : answer) mark_lcs(r, a, marked);
    for (size_t i = 0; i < r.size(); ++i)
      if (marked[i] && left_answer[r[i]] > 0 && left_reference[r[i]] > 0) {
        ++hits;
        --left_answer[r[i]];
        --left_reference[r[i]];
      }
  }
  return f_measure(hits, answer_words, reference_words);
}

}  // namespace

Rouge rouge(std::string_view reference, std::string_view answer) {
  const Words want = words_of(reference), found = words_of(answer);
  Rouge r;
  r.rouge1 = n_gram_score(want, found, 1);
  r.rouge2 = n_gram_score(want, found, 2);
  if (!want.empty() && !found.empty()) r.rouge_l = f_measure(lcs_table(want, found).back().back(), found.size(), want.size());
  r.rouge_lsum = summary_score(reference, answer);
  return r;
}

}  // namespace ingot::bench
