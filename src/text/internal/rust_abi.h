// The C ABI of rust/ (see its lib.rs for the rules) and the C++ hands that hold its values.
//
//   RustBytes error;
//   if (!ingot_text_tokenizer_encode(t, s.data(), s.size(), true, ids.get(), error.get())) return failed(error);
//
// Thread rule: as lib.rs says; RustBytes is a plain owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/result.h"

extern "C" {
struct IngotTextBytes {
  uint8_t* data;
  size_t size;
  size_t capacity;
};
struct IngotTextTokenizer;
struct IngotTextTemplate;
struct IngotTextGrammarFactory;
struct IngotTextGrammar;
// Writes the formatted current time of `clock` to `out`, at most `capacity` bytes; returns the bytes written.
using IngotTextStrftime = size_t (*)(const void* clock, const char* format, size_t n, char* out, size_t capacity);

void ingot_text_init();
void ingot_text_bytes_free(IngotTextBytes bytes);
IngotTextTokenizer* ingot_text_tokenizer_new(const char* json, size_t n, IngotTextBytes* error);
void ingot_text_tokenizer_free(IngotTextTokenizer*);
bool ingot_text_tokenizer_encode(const IngotTextTokenizer*, const char* s, size_t n, bool add_special, IngotTextBytes* out,
                                 IngotTextBytes* error);
bool ingot_text_tokenizer_vocabulary(const IngotTextTokenizer*, IngotTextBytes* out, IngotTextBytes* error);
IngotTextTemplate* ingot_text_template_new(const char* source, size_t n, IngotTextBytes* error);
void ingot_text_template_free(IngotTextTemplate*);
bool ingot_text_template_render(const IngotTextTemplate*, const char* context, size_t n, IngotTextStrftime strftime, const void* clock,
                                IngotTextBytes* out, IngotTextBytes* error);
IngotTextGrammarFactory* ingot_text_grammar_factory_new(const IngotTextTokenizer*, const uint32_t* stop, size_t stops,
                                                        IngotTextBytes* error);
void ingot_text_grammar_factory_free(IngotTextGrammarFactory*);
IngotTextGrammar* ingot_text_grammar_new(const IngotTextGrammarFactory*, int32_t kind, const char* source, size_t n,
                                         IngotTextBytes* error);
void ingot_text_grammar_free(IngotTextGrammar*);
IngotTextGrammar* ingot_text_grammar_clone(const IngotTextGrammar*, IngotTextBytes* error);
bool ingot_text_grammar_mask(IngotTextGrammar*, uint32_t* words, size_t n, IngotTextBytes* error);
bool ingot_text_grammar_commit(IngotTextGrammar*, uint32_t id, IngotTextBytes* error);
bool ingot_text_grammar_rollback(IngotTextGrammar*, size_t tokens, IngotTextBytes* error);
int32_t ingot_text_grammar_state(IngotTextGrammar*, IngotTextBytes* error);
}

namespace ingot::text {

// Owns what a call wrote.
class RustBytes {
 public:
  RustBytes() = default;
  RustBytes(const RustBytes&) = delete;
  RustBytes& operator=(const RustBytes&) = delete;
  ~RustBytes() { ingot_text_bytes_free(bytes_); }
  IngotTextBytes* get() { return &bytes_; }
  std::string_view view() const { return {reinterpret_cast<const char*>(bytes_.data), bytes_.size}; }

 private:
  IngotTextBytes bytes_{nullptr, 0, 0};
};

// Before the first call that makes a handle: Rust's panics arrive as errors and are not printed too.
inline void init_rust() {
  static const bool done = (ingot_text_init(), true);
  (void)done;
}

inline Error failed(const RustBytes& error, Code code = Code::kInvalidArgument) { return Error(code, std::string(error.view())); }

template <class T, void (*kFree)(T*)>
struct RustFree {
  void operator()(T* p) const { kFree(p); }
};
using RustTokenizer = std::unique_ptr<IngotTextTokenizer, RustFree<IngotTextTokenizer, ingot_text_tokenizer_free>>;
using RustTemplate = std::unique_ptr<IngotTextTemplate, RustFree<IngotTextTemplate, ingot_text_template_free>>;
using RustGrammarFactory = std::unique_ptr<IngotTextGrammarFactory, RustFree<IngotTextGrammarFactory, ingot_text_grammar_factory_free>>;
using RustGrammar = std::unique_ptr<IngotTextGrammar, RustFree<IngotTextGrammar, ingot_text_grammar_free>>;

}  // namespace ingot::text
