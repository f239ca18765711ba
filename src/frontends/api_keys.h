// KeyTable: API keys of the OpenAI and Anthropic routes, each with limits on requests and tokens per minute.
//
//   {"keys": [{"key": "sk-abc", "name": "alice", "requests_per_minute": 60, "tokens_per_minute": 100000}]}     // 0 or absent: no limit
//   auto key = TRY(table->admit(request));      // 401 without a good key, 429 over a limit
//   key.charge(tokens);
//
// Thread rule: safe from any thread.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"
#include "frontends/http_message.h"

namespace ingot::frontends {

class KeyTable {
 public:
  struct Account {
    std::string name;
    int64_t requests_per_minute = 0, tokens_per_minute = 0;
    // Token buckets that refill over a minute; tokens may go below zero by one request.
    double requests_left = 0, tokens_left = 0;
    std::chrono::steady_clock::time_point filled{};
  };
  struct Refusal {
    int status = 0;  // 0: admitted
    std::string message{};
    int retry_after_seconds = 0;
  };

  static Result<std::unique_ptr<KeyTable>> read(const std::string& path);
  static Result<std::unique_ptr<KeyTable>> parse(std::string_view json, const std::string& path);
  // The key comes as "Authorization: Bearer KEY" or "X-Api-Key: KEY". Counts one request.
  Refusal admit(const HttpRequest& request, std::shared_ptr<Account>& account);
  void charge(Account& account, int64_t tokens);

 private:
  static void refill(Account& account, std::chrono::steady_clock::time_point now);
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Account>, std::less<>> accounts_;
};

}  // namespace ingot::frontends
