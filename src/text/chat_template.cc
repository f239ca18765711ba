#include "text/chat_template.h"

#include <ctime>

#include "text/internal/rust_abi.h"

namespace ingot::text {
namespace {

// Meta's Llama 2 chat form: the system text lives inside the first user turn.
constexpr std::string_view kLlama2 =
    R"({%- if messages and messages[0].role == 'system' -%}
{%- set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{{- bos_token + '[INST] ' + (system if loop.index0 == 0 else '') + message.content.strip() + ' [/INST]' -}}
{%- elif message.role == 'assistant' -%}
{{- ' ' + message.content.strip() + ' ' + eos_token -}}
{%- else -%}
{{- raise_exception('role ' + message.role + ' is unknown, want user or assistant after an optional system message') -}}
{%- endif -%}
{%- endfor -%})";

constexpr std::string_view kChatml =
    R"({%- if not messages or messages[0].role != 'system' -%}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%})";

// Ids 195 and 196 open a user's and an assistant's turn; a loader that knows the vocabulary puts their texts in (Baichuan 2's here).
constexpr std::string_view kBaichuan =
    R"({%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- '<reserved_106>' + message.content -}}
{%- elif message.role == 'assistant' -%}
{{- '<reserved_107>' + message.content -}}
{%- else -%}
{{- message.content -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<reserved_107>' -}}
{%- endif -%})";

// Yuan 2.0: turns are joined by its newline text, and <sep> asks for the answer.
constexpr std::string_view kYuan =
    R"({%- for message in messages -%}
{{- message.content -}}
{%- if not loop.last -%}
{{- '<n>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<sep>' -}}
{%- endif -%})";

// ChatGLM 3, as its later files have it: the space after the line is sentencepiece's dummy prefix of the content.
constexpr std::string_view kChatGlm3 =
    R"({%- for message in messages -%}
{{- '[gMASK]sop' if loop.first -}}
{{- '<|' + message.role + '|>\n ' + message.content -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%})";

constexpr std::string_view kGlm4 =
    R"({%- for message in messages -%}
{{- '[gMASK]<sop>' if loop.first -}}
{{- '<|' + message.role + '|>\n' + message.content -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%})";

size_t format_now(const void* clock, const char* format, size_t n, char* out, size_t capacity) {
  const time_t seconds = static_cast<time_t>(*static_cast<const int64_t*>(clock));
  struct tm local {};
  if (!localtime_r(&seconds, &local)) return 0;
  return std::strftime(out, capacity, std::string(format, n).c_str(), &local);
}

// The text of a message that a continuation keeps open: a string, or the last text part of a list.
const std::string* open_text(const Json& message) {
  if (!message.is_object() || !message.contains("content")) return nullptr;
  const Json& content = message["content"];
  if (content.is_string()) return content.get_ptr<const std::string*>();
  if (content.is_array())
    for (auto part = content.rbegin(); part != content.rend(); ++part)
      if (part->is_object() && part->contains("text")) return (*part)["text"].get_ptr<const std::string*>();
  return nullptr;
}

std::string_view strip(std::string_view s, bool right = true) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const size_t begin = s.find_first_not_of(kSpace);
  if (begin == s.npos) return {};
  s.remove_prefix(begin);
  return right ? s.substr(0, s.find_last_not_of(kSpace) + 1) : s;
}

}  // namespace

struct ChatTemplate::Impl {
  RustTemplate rust;
};

ChatTemplate::~ChatTemplate() = default;

std::string_view fallback_template(std::string_view family) {
  if (family == "llama2") return kLlama2;
  if (family == "chatml") return kChatml;
  if (family == "baichuan") return kBaichuan;
  if (family == "yuan") return kYuan;
  if (family == "chatglm3") return kChatGlm3;
  if (family == "glm4") return kGlm4;
  return {};
}

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::create(const TokenizerInfo& info, std::string_view name) {
  if (!name.empty()) {
    for (const auto& [n, source] : info.named_templates)
      if (n == name) return create(info, name, source);
    if (name != "default") {
      std::vector<std::string> names;
      for (const auto& [n, source] : info.named_templates) names.push_back(n);
      return Error(Code::kNotFound, cat("chat template '", name, "' is unknown; the model has ", names));
    }
  }
  if (!info.chat_template.empty()) return create(info, "default", info.chat_template);
  const std::string_view source = fallback_template(info.family);
  if (source.empty())
    return Error(Code::kUnsupported, "the model has no chat template: send a plain prompt, or give a template (its Jinja source)");
  return create(info, info.family, std::string(source));
}

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::create(const TokenizerInfo& info, std::string_view name, std::string source) {
  init_rust();
  std::shared_ptr<ChatTemplate> t(new ChatTemplate);
  RustBytes error;
  t->impl_ = std::make_unique<Impl>();
  t->impl_->rust.reset(ingot_text_template_new(source.data(), source.size(), error.get()));
  if (!t->impl_->rust) return failed(error).in(cat("template '", name, "'"));
  t->source_ = std::move(source);
  t->bos_token_ = info.bos_token;
  t->eos_token_ = info.eos_token;
  t->pad_token_ = info.pad_token;
  t->unk_token_ = info.unk_token;
  return std::shared_ptr<const ChatTemplate>(std::move(t));
}

Result<std::string> ChatTemplate::render(const ChatRequest& request) const {
  if (!request.messages.is_array())
    return Error(Code::kInvalidArgument, cat("messages is ", json_type(request.messages), ", want an array of {role, content}"));
  const bool tools = request.tools.is_array() && !request.tools.empty();
  Json context = {{"messages", request.messages},
                  {"tools", tools ? request.tools : Json(nullptr)},
                  {"documents", nullptr},
                  {"add_generation_prompt", request.add_generation_prompt && !request.continue_final_message}};
  for (const auto& [key, text] : {std::pair{"bos_token", &bos_token_}, {"eos_token", &eos_token_}, {"pad_token", &pad_token_},
                                  {"unk_token", &unk_token_}})
    if (!text->empty()) context[key] = *text;
  if (request.extra.is_object())
    for (const auto& [key, value] : request.extra.items()) context[key] = value;
  const std::string json = dump_json(context);
  const int64_t now = request.unix_seconds.value_or(static_cast<int64_t>(std::time(nullptr)));
  RustBytes out, error;
  if (!ingot_text_template_render(impl_->rust.get(), json.data(), json.size(), format_now, &now, out.get(), error.get()))
    return failed(error);
  std::string text(out.view());
  if (!request.continue_final_message) return text;

  // As Transformers: cut behind the last occurrence of the final message, with its trailing space if the template kept it.
  const std::string* final_text = request.messages.empty() ? nullptr : open_text(request.messages.back());
  if (!final_text) return Error(Code::kInvalidArgument, "continue_final_message: the last message has no text to continue");
  const std::string_view core = strip(*final_text);
  const size_t at = text.rfind(core);
  if (at == text.npos)
    return Error(Code::kInvalidArgument, "continue_final_message: the template does not write the last message as it is");
  const std::string_view open_end = strip(*final_text, /*right=*/false);
  text.resize(at + (std::string_view(text).substr(at, open_end.size()) == open_end ? open_end.size() : core.size()));
  return text;
}

}  // namespace ingot::text
