// Replays tests/sched/*.trace: commands, each followed by what it must print. `sched_test --update` rewrites what they print.
//
//   scheduler KEY=VALUE...        a new scheduler (fields of SchedulerOptions) and runner; ahead=N plans are open before a commit
//   submit NAME prompt=N max_new=N [shared=N] [n=N] [priority=N] [salt=N] [adapter=N] [rope=N] [lookahead=0] [reuse=0]
//                                 the first `shared` tokens are the same in all prompts, the others are the name's own
//   finish NAME | truncate NAME LENGTH | draft NAME right=N wrong=N
//   run N                         N times: plan, run, commit the oldest plan if enough are open
//   drain                         until idle
//   stats
//
// Every plan is run by TokenRunner, which reports a wrong page table, copy or snapshot.
#include "sched/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <sstream>

#include "base/files.h"
#include "sched/scheduler.h"
#include "sched/token_runner.h"

namespace ingot::sched {
namespace {

class Replay {
 public:
  std::string command(const std::string& line) {
    std::istringstream in(line);
    std::string verb, word;
    in >> verb;
    std::vector<std::string> words;
    std::map<std::string, std::string> keys;
    while (in >> word) {
      const size_t eq = word.find('=');
      if (eq == std::string::npos)
        words.push_back(word);
      else
        keys[word.substr(0, eq)] = word.substr(eq + 1);
    }
    auto number = [&](const char* key, int otherwise) {
      auto it = keys.find(key);
      return it == keys.end() ? otherwise : std::stoi(it->second);
    };
    if (verb == "scheduler") {
      SchedulerOptions o;
      o.max_tokens_per_step = number("max_tokens_per_step", 8);
      o.max_running = number("max_running", 4);
      o.max_chunk_tokens = number("max_chunk_tokens", 0);
      o.page_tokens = number("page_tokens", 4);
      o.pages = number("pages", 16);
      o.max_seq_tokens = number("max_seq_tokens", 1000);
      o.state_rows = number("state_rows", 0);
      o.priority_head_start = number("priority_head_start", 256);
      o.reuse_prefix = number("reuse_prefix", 1) != 0;
      if (keys.contains("policy")) o.policy = keys["policy"];
      ahead_ = number("ahead", 1);
      auto made = Scheduler::create(o);
      if (!made.ok()) return "error: " + made.error().message() + "\n";
      s_ = std::make_unique<Scheduler>(std::move(*made));
      runner_ = std::make_unique<TokenRunner>(TokenRunnerOptions{.pages = o.pages,
                                                                 .page_tokens = o.page_tokens,
                                                                 .slots = o.max_running,
                                                                 .state_rows = o.state_rows,
                                                                 .max_in_flight = ahead_,
                                                                 .max_tokens_per_step = o.max_tokens_per_step});
      names_.clear();
      return "";
    }
    if (!s_) return "error: no scheduler\n";
    if (verb == "submit") {
      Submission sub;
      const std::string name = words.at(0);
      for (int i = 0; i < number("prompt", 0); ++i) sub.prompt.push_back(i < number("shared", 0) ? i % 250 : 1000 * name[0] + i);
      sub.max_new = number("max_new", 1);
      sub.n = number("n", 1);
      sub.priority = number("priority", 0);
      sub.salt = number("salt", 0);
      sub.adapter = number("adapter", 0);
      sub.rope_regime = number("rope", 0);
      sub.lookahead = number("lookahead", 1) != 0;
      sub.reuse_prefix = number("reuse", 1) != 0;
      const int n = sub.n;
      auto id = s_->submit(std::move(sub));
      if (!id.ok()) return "error: " + id.error().message() + "\n";
      for (int i = 0; i < n; ++i) names_[SeqId{value(*id) + i}] = i == 0 ? name : cat(name, ".", i);
      return "";
    }
    if (verb == "finish") return s_->finish(id_of(words.at(0))), "";
    if (verb == "truncate") return status(s_->truncate(id_of(words.at(0)), std::stoi(words.at(1))));
    if (verb == "draft") return draft(id_of(words.at(0)), number("right", 0), number("wrong", 0));
    if (verb == "stats") {
      const SchedulerStats t = s_->stats();
      return cat("stats: waiting ", t.waiting, " running ", t.running, " pages used ", t.pages_used, " cached ", t.pages_cached,
                 " of ", t.pages, "; prefix ", t.prefix_hit_tokens, "/", t.prefix_tokens, "; preempted ", t.preemptions, "\n");
    }
    std::string out;
    if (verb == "run")
      for (int i = 0; i < std::stoi(words.at(0)); ++i) out += step();
    else if (verb == "drain")
      for (int i = 0; !s_->idle() && i < 200; ++i) out += step();
    else
      return "error: unknown command\n";
    return out;
  }

 private:
  SeqId id_of(const std::string& name) const {
    for (const auto& [id, n] : names_)
      if (n == name) return id;
    return SeqId::kNone;
  }

  static std::string status(const Status& s) { return s.ok() ? "" : "error: " + s.error().message() + "\n"; }

  // Right guesses are found by running ahead of the scheduler on a copy of the request alone.
  std::string draft(SeqId seq, int right, int wrong) {
    std::vector<Token> tokens(s_->tokens(seq).begin(), s_->tokens(seq).end());
    SchedulerOptions o = s_->options();
    o.pages = 100;
    TokenRunner alone({.pages = o.pages, .page_tokens = o.page_tokens, .slots = o.max_running});
    auto scheduler = Scheduler::create(o);
    Submission sub;
    sub.prompt = tokens;
    sub.max_new = right + 1;
    (void)scheduler->submit(std::move(sub));
    std::vector<Token> guesses;
    StepResult result;
    while (!scheduler->idle()) {
      const StepPlan& plan = scheduler->plan();
      auto ticket = alone.launch(plan);
      const StepId id = plan.id;
      (void)alone.wait(*ticket, result);
      guesses.insert(guesses.end(), result.ids.begin(), result.ids.end());
      scheduler->commit(id, result.offsets, result.ids);
    }
    const Token next = guesses.back();
    guesses.pop_back();
    for (int i = 0; i < wrong; ++i) guesses.push_back((next + 1) % 256);
    return status(s_->draft(seq, guesses));
  }

  std::string step() {
    auto name = [&](SeqId id) { return names_.at(id); };
    const StepPlan& plan = s_->plan();
    std::string out;
    if (!plan.empty()) {
      out = trace_line(plan, name);
      auto ticket = runner_->launch(plan);
      if (!ticket.ok()) return out + " error: " + ticket.error().message() + "\n";
      open_.push_back({plan.id, *ticket});
    } else {
      if (open_.empty()) return "nothing to run\n";
      out = "-:;";
    }
    if (static_cast<int>(open_.size()) >= ahead_ || plan.empty()) {
      StepResult result;
      Status waited = runner_->wait(open_.front().second, result);
      if (!waited.ok()) return out + " error: " + waited.error().message() + "\n";
      std::vector<SeqId> before;
      for (const auto& [id, n] : names_)
        if (s_->alive(id)) before.push_back(id);
      s_->commit(open_.front().first, result.offsets, result.ids);
      open_.pop_front();
      for (SeqId id : before)
        if (!s_->alive(id)) out += " " + name(id) + " done";
    }
    s_->check();
    const SchedulerStats stats = s_->stats();
    return out + cat(" free ", stats.pages - stats.pages_used, "\n");
  }

  int ahead_ = 1;
  std::unique_ptr<Scheduler> s_;
  std::unique_ptr<TokenRunner> runner_;
  std::map<SeqId, std::string> names_;
  std::deque<std::pair<StepId, Ticket>> open_;
};

bool is_output(const std::string& line) {
  return !line.empty() && (std::isdigit(static_cast<unsigned char>(line[0])) || line.starts_with("-:") ||
                           line.starts_with("error:") || line.starts_with("stats:") || line.starts_with("nothing to run"));
}

bool updating() {
  const std::vector<std::string> args = testing::internal::GetArgvs();
  return std::find(args.begin(), args.end(), "--update") != args.end();
}

TEST(Trace, FilesInTestsSched) {
  const std::string folder = std::string(INGOT_SOURCE_DIR) + "/tests/sched";
  auto names = list_directory(folder);
  ASSERT_TRUE(names.ok()) << names.error().message();
  int files = 0;
  for (const std::string& file : *names) {
    if (!file.ends_with(".trace")) continue;
    ++files;
    const std::string path = join_path(folder, file);
    auto text = read_file(path);
    ASSERT_TRUE(text.ok()) << text.error().message();
    Replay replay;
    std::string got, line;
    std::istringstream in(*text);
    while (std::getline(in, line)) {
      if (is_output(line)) continue;
      got += line + "\n";
      if (!line.empty() && line[0] != '#') got += replay.command(line);
    }
    if (updating() && got != *text) {
      ASSERT_TRUE(write_file(path, got).ok());
      continue;
    }
    EXPECT_EQ(got, *text) << path << " differs; if the new timeline is right, run sched_test --update";
  }
  EXPECT_GE(files, 8) << folder;
}

}  // namespace
}  // namespace ingot::sched
