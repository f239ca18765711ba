#include "frontends/api_keys.h"

#include <algorithm>
#include <cmath>

#include "base/files.h"
#include "base/json.h"

namespace ingot::frontends {

Result<std::unique_ptr<KeyTable>> KeyTable::read(const std::string& path) { return parse(TRY(read_file(path, 16 << 20)), path); }

Result<std::unique_ptr<KeyTable>> KeyTable::parse(std::string_view text, const std::string& path) {
  const Json json = TRY(parse_json(text, path));
  if (!json.is_object() || !json.contains("keys") || !json["keys"].is_array())
    return Error(Code::kInvalidArgument, cat(path, ": want an object with an array 'keys'"));
  auto table = std::make_unique<KeyTable>();
  for (const Json& k : json["keys"]) {
    const std::string key = TRY(get<std::string>(k, "key", path));
    if (key.size() < 8) return Error(Code::kInvalidArgument, cat(path, ": a key has ", key.size(), " characters, want at least 8"));
    auto account = std::make_shared<Account>();
    account->name = TRY(get_or<std::string>(k, "name", "", path));
    account->requests_per_minute = TRY(get_or<int64_t>(k, "requests_per_minute", 0, path));
    account->tokens_per_minute = TRY(get_or<int64_t>(k, "tokens_per_minute", 0, path));
    if (account->requests_per_minute < 0 || account->tokens_per_minute < 0)
      return Error(Code::kInvalidArgument, cat(path, ": limits of key '", account->name, "' must not be negative"));
    account->requests_left = static_cast<double>(account->requests_per_minute);
    account->tokens_left = static_cast<double>(account->tokens_per_minute);
    account->filled = std::chrono::steady_clock::now();
    if (!table->accounts_.emplace(key, std::move(account)).second)
      return Error(Code::kInvalidArgument, cat(path, ": a key stands there twice"));
  }
  return table;
}

void KeyTable::refill(Account& a, std::chrono::steady_clock::time_point now) {
  const double minutes = std::chrono::duration<double>(now - a.filled).count() / 60;
  a.filled = now;
  const double requests = static_cast<double>(a.requests_per_minute), tokens = static_cast<double>(a.tokens_per_minute);
  a.requests_left = std::min(requests, a.requests_left + minutes * requests);
  a.tokens_left = std::min(tokens, a.tokens_left + minutes * tokens);
}

KeyTable::Refusal KeyTable::admit(const HttpRequest& request, std::shared_ptr<Account>& account) {
  std::string_view key = request.header("x-api-key");
  if (const std::string_view a = request.header("authorization"); key.empty() && a.size() > 7 && equal_ignoring_case(a.substr(0, 7), "Bearer "))
    key = trim(a.substr(7));
  if (key.empty()) return {401, "no API key: send it as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"};
  std::lock_guard lock(mutex_);
  auto it = accounts_.find(key);
  if (it == accounts_.end()) return {401, "the API key is not known here"};
  Account& a = *it->second;
  refill(a, std::chrono::steady_clock::now());
  if (a.requests_per_minute > 0 && a.requests_left < 1)
    return {429, cat("the API key is over its limit of ", a.requests_per_minute, " requests per minute"),
            static_cast<int>(std::ceil((1 - a.requests_left) * 60 / static_cast<double>(a.requests_per_minute)))};
  if (a.tokens_per_minute > 0 && a.tokens_left <= 0)
    return {429, cat("the API key is over its limit of ", a.tokens_per_minute, " tokens per minute"),
            static_cast<int>(std::ceil((1 - a.tokens_left) * 60 / static_cast<double>(a.tokens_per_minute)))};
  a.requests_left -= 1;
  account = it->second;
  return {};
}

void KeyTable::charge(Account& account, int64_t tokens) {
  std::lock_guard lock(mutex_);
  account.tokens_left -= static_cast<double>(tokens);
}

}  // namespace ingot::frontends
