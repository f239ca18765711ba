#include "bench/answers.h"

#include "base/log.h"

namespace ingot::bench {

Answers::~Answers() {
  for (engine::RequestId id : ids_) service_.engine().cancel(id);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return open_ == 0; });
}

Status Answers::submit(engine::Request r) {
  Answer* a = nullptr;
  {
    std::lock_guard lock(mutex_);
    a = &answers_.emplace_back();
    a->prompt_tokens = static_cast<int>(r.prompt.size());
    a->submitted_ns = monotonic_ns();
    ++open_;
  }
  r.sink = [this, a](const engine::Delta& d) {
    std::lock_guard lock(mutex_);
    if (a->first_ns == 0 && !d.ids.empty()) a->first_ns = monotonic_ns();
    a->ids.insert(a->ids.end(), d.ids.begin(), d.ids.end());
    a->text += d.text;
    a->logprobs.insert(a->logprobs.end(), d.logprobs.begin(), d.logprobs.end());
    if (d.error) a->failed = true;
    if (d.last) {
      a->last_ns = monotonic_ns();
      --open_;
      changed_.notify_all();
    }
  };
  auto id = service_.engine().submit(std::move(r));
  std::lock_guard lock(mutex_);
  if (id.ok()) {
    ids_.push_back(*id);
    return {};
  }
  answers_.pop_back();
  --open_;
  return id.error();
}

size_t Answers::open() const {
  std::lock_guard lock(mutex_);
  return open_;
}

void Answers::wait_below(size_t open) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return open_ < open; });
}

std::vector<Answer> Answers::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return open_ == 0; });
  std::vector<Answer> all(std::make_move_iterator(answers_.begin()), std::make_move_iterator(answers_.end()));
  answers_.clear();
  ids_.clear();
  return all;
}

}  // namespace ingot::bench
