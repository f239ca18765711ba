// Chat templates: messages to a prompt, byte for byte as Transformers renders them.
//
//   auto chat = TRY(ChatTemplate::create(tokenizer->info()));
//   std::string prompt = TRY(chat->render({.messages = messages, .tools = tools}));
//   auto ids = TRY(tokenizer->encode(prompt, /*add_special=*/false));   // templates write bos themselves
//
// The template is parsed once. Thread rule: const and safe from any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/json.h"
#include "text/sealed.h"

namespace ingot::text {

struct ChatRequest {
  Json messages = Json::array();
  Json tools = nullptr;                // null or empty: the template sees none
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the last message is left open: the prompt ends with its content
  Json extra = nullptr;                // more variables (chat_template_kwargs), overriding the others; null: none
  std::optional<int64_t> unix_seconds = {};  // what strftime_now sees; unset: the system's clock
};

class ChatTemplate {
 public:
  // `name` chooses among info.named_templates; empty: the default one, or the fallback of info.family.
  static Result<std::shared_ptr<const ChatTemplate>> create(const TokenizerInfo& info, std::string_view name = "");
  static Result<std::shared_ptr<const ChatTemplate>> create(const TokenizerInfo& info, std::string_view name, std::string source);
  ~ChatTemplate();
  Result<std::string> render(const ChatRequest& request) const;
  const std::string& source() const { return source_; }

 private:
  ChatTemplate() = default;
  struct Impl;
  std::string source_, bos_token_, eos_token_, pad_token_, unk_token_;
  std::unique_ptr<Impl> impl_;
};

// Templates of families whose checkpoints carry none: "llama2", "chatml", "baichuan", "yuan", "chatglm3", "glm4"; empty: none of that name.
std::string_view fallback_template(std::string_view family);

}  // namespace ingot::text
