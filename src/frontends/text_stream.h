// TextStream: runs the InferRequests of one chat, completion or message exchange and hands their events to a format.
//
//   run_text(api, exchange, std::move(request), std::make_unique<ChatFormat>(...));
//
// A format writes either one JSON (finish) or SSE events as they come. Thread rule: a format is called by one thread at a time.
#pragma once

#include <memory>

#include "frontends/api.h"
#include "frontends/text_request.h"

namespace ingot::frontends {

struct TextUsage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0, reasoning_tokens = 0;
};

class TextFormat {
 public:
  virtual ~TextFormat() = default;
  virtual bool streams() const = 0;
  // Streaming: append SSE text to `out`.
  virtual void begin(std::string& out) { (void)out; }
  virtual void event(const TextEvent& event, std::string& out) = 0;  // sequence counts over all prompts: prompt * n + sequence
  virtual void end(const TextUsage& usage, std::string& out) = 0;
  // Not streaming: the whole answer, after the last event.
  virtual std::string finish(const TextUsage& usage) = 0;
  virtual HttpResponse error(const TextError& error) = 0;                     // before anything was sent
  virtual void stream_error(const TextError& error, std::string& out) = 0;    // in a stream that has begun
};

// The error bodies of OpenAI and Anthropic.
HttpResponse openai_error(const TextError& error);
HttpResponse anthropic_error(const TextError& error);
TextError text_error(const Error& error);

std::string make_id(const char* prefix);  // "chatcmpl-<hex>"
int64_t unix_seconds();

// Checks model and key, starts the requests, streams or collects. `sequences` is the number of choices per prompt.
void run_text(ApiContext& api, const ExchangePtr& exchange, TextRequest request, std::unique_ptr<TextFormat> format);

}  // namespace ingot::frontends
