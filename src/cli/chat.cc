// ingot chat MODEL: a conversation in the terminal, with the model's own template.
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <mutex>

#include "backends/llm.h"
#include "base/log.h"
#include "cli/commands.h"

namespace ingot::cli {
namespace {

struct ChatOptions {
  std::string system;
  double temperature = 0.7, top_p = 0.95;
  int max_tokens = 1024;
  uint64_t seed = 0;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("system", o.system, "System message.");
    v("temperature", o.temperature, "Sampling temperature; 0: greedy.", 0, 100);
    v("top-p", o.top_p, "Sample from the likeliest tokens that hold this mass.", 0.01, 1);
    v("max-tokens", o.max_tokens, "Tokens of one answer at most.", 1, 1 << 24);
    v("random-seed", o.seed, "Seed; 0: another one for each answer.");
  }
};

volatile std::sig_atomic_t g_interrupted = 0;

constexpr const char* kHelp =
    "  /clear           forget the conversation\n"
    "  /system TEXT     set the system message and forget the conversation\n"
    "  /set NAME VALUE  temperature, top_p, max_tokens\n"
    "  /retry           answer the last question again\n"
    "  /history         show the conversation\n"
    "  /quit            leave (or Ctrl-D)\n"
    "  Ctrl-C           stop the answer\n";

class Chat {
 public:
  Chat(backends::LlmService& service, ChatOptions options) : service_(service), options_(std::move(options)) { clear(); }

  // False: leave.
  bool line(const std::string& text) {
    if (text.empty()) return true;
    if (text[0] != '/') {
      messages_.push_back({{"role", "user"}, {"content", text}});
      answer();
      return true;
    }
    const size_t space = std::min(text.find(' '), text.size());
    const std::string word = text.substr(0, space), rest = space < text.size() ? text.substr(space + 1) : "";
    if (word == "/quit" || word == "/exit" || word == "/q") return false;
    if (word == "/clear") clear();
    else if (word == "/system") {
      options_.system = rest;
      clear();
    } else if (word == "/retry") retry();
    else if (word == "/history") std::printf("%s\n", dump_json(messages_, 2).c_str());
    else if (word == "/set") set(rest);
    else std::printf(word == "/help" ? "%s" : "there is no such command\n%s", kHelp);
    return true;
  }

 private:
  void clear() {
    messages_ = Json::array();
    if (!options_.system.empty()) messages_.push_back({{"role", "system"}, {"content", options_.system}});
  }

  void retry() {
    while (!messages_.empty() && messages_.back()["role"] == "assistant") messages_.erase(messages_.end() - 1);
    if (messages_.empty() || messages_.back()["role"] != "user") std::printf("there is no question to answer again\n");
    else answer();
  }

  void set(const std::string& rest) {
    OptionTable table("/set");
    table.add(options_);
    const size_t space = std::min(rest.find(' '), rest.size());
    const std::vector<std::string> args{cat("--", rest.substr(0, space)), space < rest.size() ? rest.substr(space + 1) : ""};
    auto parsed = table.parse(args);
    if (!parsed.ok()) std::printf("%s\n", parsed.error().message().c_str());
  }

  void answer() {
    text::ChatRequest chat;
    chat.messages = messages_;
    auto rendered = service_.chat()->render(chat);
    auto ids = rendered.ok() ? service_.tokenizer().encode(*rendered, false) : Result<std::vector<int32_t>>(rendered.error());
    if (!ids.ok()) {
      std::printf("[%s]\n", ids.error().message().c_str());
      messages_.erase(messages_.end() - 1);
      return;
    }
    engine::Request r;
    r.prompt = *ids;
    const int room = service_.max_seq_tokens() - static_cast<int>(ids->size());
    if (room < 1) {
      std::printf("[the conversation has %zu tokens, the model takes at most %d: /clear starts anew]\n", ids->size(), service_.max_seq_tokens());
      messages_.erase(messages_.end() - 1);
      return;
    }
    r.max_new = std::min(room, options_.max_tokens);
    r.sampling.temperature = static_cast<float>(options_.temperature);
    r.sampling.top_p = static_cast<float>(options_.top_p);
    r.sampling.seed = options_.seed ? options_.seed : static_cast<uint64_t>(monotonic_ns());
    std::mutex mutex;
    std::condition_variable done;
    bool ended = false;
    std::string text;
    engine::Usage usage;
    const int64_t start = monotonic_ns();
    double first = 0;
    r.sink = [&](const engine::Delta& d) {
      std::fwrite(d.text.data(), 1, d.text.size(), stdout);
      std::fflush(stdout);
      std::lock_guard lock(mutex);
      if (first == 0 && !d.ids.empty()) first = seconds_since(start);
      text += d.text;
      usage = d.usage;
      if (d.error) std::printf("[%s]", d.error->message().c_str());
      if (d.last) {
        ended = true;
        done.notify_one();
      }
    };
    g_interrupted = 0;
    auto id = service_.engine().submit(std::move(r));
    if (!id.ok()) {
      std::printf("[%s]\n", id.error().message().c_str());
      messages_.erase(messages_.end() - 1);
      return;
    }
    std::unique_lock lock(mutex);
    bool cancelled = false;
    while (!ended) {
      done.wait_for(lock, std::chrono::milliseconds(30));
      if (g_interrupted && !cancelled) {
        cancelled = true;
        lock.unlock();
        service_.engine().cancel(*id);
        lock.lock();
      }
    }
    const double seconds = seconds_since(start);
    std::printf("\n");
    if (stdout_is_terminal()) {
      std::printf("\033[2m[%d tokens, %.1f tok/s; first after %.2f s; %d of %d prompt tokens reused%s]\033[0m\n", usage.generated_tokens,
                  seconds > first ? (usage.generated_tokens - 1) / (seconds - first) : 0.0, first, usage.cached_tokens, usage.prompt_tokens,
                  cancelled ? "; stopped" : "");
    }
    messages_.push_back({{"role", "assistant"}, {"content", text}});
  }

  backends::LlmService& service_;
  ChatOptions options_;
  Json messages_;
};

}  // namespace

int run_chat(const Args& args) {
  ChatOptions options;
  backends::LlmOptions llm;
  CompileOptions compile;
  OptionTable table("ingot chat MODEL", "A conversation with a model in the terminal. MODEL is an engine, a Hugging Face directory or a GGUF file.");
  table.add(options);
  table.add(llm, "engine");
  table.add(compile, "compiling a raw model");
  std::vector<std::string> rest;
  int code = 0;
  if (!read_flags(table, "chat", args, rest, code)) return code;
  if (rest.size() != 1) return fail("chat", Error(Code::kUnsupported, "want one path: an engine or a model"));
  set_log_level(LogLevel::kWarning);
  auto engine = engine_of(rest[0], compile, llm.runtime);
  if (!engine.ok()) return fail("chat", engine.error());
  auto service = backends::LlmService::load(*engine, llm, linked_devices());
  if (!service.ok()) return fail("chat", service.error());
  if (!(*service)->chat())
    return fail("chat", Error(Code::kUnsupported, cat(rest[0], " has no chat template, so it is no chat model; `ingot run` continues a text")));
  std::signal(SIGINT, [](int) { g_interrupted = 1; });
  Chat chat(**service, std::move(options));
  const bool terminal = stdout_is_terminal();
  if (terminal) std::printf("%s; /help lists the commands\n", rest[0].c_str());
  for (std::string line;;) {
    if (terminal) std::printf("> ");
    std::fflush(stdout);
    if (!std::getline(std::cin, line)) {
      if (!g_interrupted || std::cin.eof()) break;
      g_interrupted = 0;  // Ctrl-C at the prompt: a fresh line
      std::cin.clear();
      std::printf("\n");
      continue;
    }
    if (!chat.line(line)) break;
  }
  if (terminal) std::printf("\n");
  return 0;
}

}  // namespace ingot::cli
