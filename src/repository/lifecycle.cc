#include "repository/lifecycle.h"

#include <algorithm>
#include <atomic>

#include "base/files.h"
#include "base/json_text.h"
#include "server/settings.h"

namespace ingot::repository {

Result<std::vector<std::string>> Lifecycle::wanted() {
  if (options_.mode != Mode::kExplicit) {
    if (!options_.load.empty()) return Error(Code::kInvalidArgument, "--load-model needs --model-control-mode=explicit");
    return repository_->names();
  }
  if (std::find(options_.load.begin(), options_.load.end(), "*") != options_.load.end()) {
    if (options_.load.size() > 1) return Error(Code::kInvalidArgument, "--load-model: '*' loads all models, want no other name beside it");
    return repository_->names();
  }
  std::vector<std::string> out;
  const auto add = [&](const std::string& name) {
    if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
  };
  for (const std::string& name : options_.load) {
    add(name);
    // The steps of an ensemble are loaded with it.
    if (auto d = repository_->read(name); d.ok() && d->parsed.config.ensemble_scheduling)
      for (const auto& step : d->parsed.config.ensemble_scheduling->step) add(repository_->name_beside(parent_directory(d->directory), step.model_name));
  }
  return out;
}

// Members come before the ensembles that use them: models by the longest way down to one without steps.
std::vector<std::vector<std::string>> Lifecycle::in_order(const std::vector<std::string>& names) const {
  std::map<std::string, std::vector<std::string>> steps;
  for (const std::string& name : names) {
    std::vector<std::string>& of = steps[name];
    if (auto d = repository_->read(name); d.ok() && d->parsed.config.ensemble_scheduling)
      for (const auto& step : d->parsed.config.ensemble_scheduling->step) {
        const std::string member = repository_->name_beside(parent_directory(d->directory), step.model_name);
        of.push_back(member);
        for (const std::string& other : names)  // not beside it: wherever it is
          if (member == step.model_name && other != member && base_name(other) == member) of.push_back(other);
      }
  }
  std::map<std::string, size_t> depth;
  for (const std::string& name : names) depth[name] = 0;
  // A circle of ensembles never settles; the registry says what is wrong with it.
  for (size_t round = 0; round < names.size(); ++round) {
    bool changed = false;
    for (const auto& [name, of] : steps)
      for (const std::string& step : of)
        if (auto it = depth.find(step); it != depth.end() && depth[name] < it->second + 1) depth[name] = it->second + 1, changed = true;
    if (!changed) break;
  }
  std::map<size_t, std::vector<std::string>> by_depth;
  for (const std::string& name : names) by_depth[depth[name]].push_back(name);
  std::vector<std::vector<std::string>> out;
  for (auto& [d, wave] : by_depth) out.push_back(std::move(wave));
  return out;
}

Status Lifecycle::load_all(const std::vector<std::string>& names) {
  std::string failures;
  std::optional<Error> first;
  for (const std::vector<std::string>& wave : in_order(names)) load_wave(wave, failures, first);
  if (first) return Error(first->code(), cat("failed to load all models: ", failures));
  return {};
}

void Lifecycle::load_wave(const std::vector<std::string>& names, std::string& failures, std::optional<Error>& first) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  const auto work = [&] {
    for (size_t i = next++; i < names.size(); i = next++) {
      // Members have had their turn in an earlier wave, or their files have not changed since they failed.
      const server::LoadParameters once{.config_json = "", .files = {}, .retry_members = false};
      Status s = registry_.load_by_name(names[i], once);
      for (int retry = 0; retry < options_.retries && !s.ok(); ++retry) s = registry_.load_by_name(names[i], once);
      if (s.ok()) continue;
      INGOT_LOG(kError, s.error().message());
      std::lock_guard lock(mutex);
      failures += cat(failures.empty() ? "" : "; ", s.error().message());
      if (!first) first = s.error();
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(names.size(), static_cast<size_t>(std::max(1, options_.threads))); ++i) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
}

Result<std::unique_ptr<Lifecycle>> Lifecycle::start(server::ModelRegistry& registry, std::shared_ptr<Repository> repository, Options options) {
  std::unique_ptr<Lifecycle> l(new Lifecycle(registry, std::move(repository), std::move(options)));
  registry.set_source(l->repository_);
  const std::vector<std::string> names = TRY(l->wanted());
  for (const std::string& name : names) l->seen_[name] = l->repository_->fingerprint(name);
  Status loaded = l->load_all(names);
  if (!loaded.ok() && l->options_.exit_on_error) return loaded.error();
  if (l->options_.mode == Mode::kPoll && l->options_.poll_secs > 0) {
    l->thread_ = std::thread([self = l.get()] {
      std::unique_lock lock(self->mutex_);
      while (!self->wake_.wait_for(lock, std::chrono::seconds(self->options_.poll_secs), [&] { return self->stop_; })) {
        lock.unlock();
        self->poll();
        lock.lock();
      }
    });
  }
  return l;
}

Lifecycle::~Lifecycle() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Lifecycle::poll() {
  const std::vector<std::string> names = repository_->names();
  std::vector<std::string> changed;
  for (const std::string& name : names) {
    const uint64_t now = repository_->fingerprint(name);
    uint64_t& seen = seen_[name];
    if (now == seen || now == 0) continue;
    seen = now;
    changed.push_back(name);
  }
  std::vector<std::string> gone;
  std::erase_if(seen_, [&](const auto& entry) {
    if (std::find(names.begin(), names.end(), entry.first) != names.end()) return false;
    if (Status s = registry_.unload(entry.first, false); !s.ok()) INGOT_LOG(kError, s.error().message());
    if (entry.first.find('/') != std::string::npos) gone.push_back(entry.first);  // another namespace may have one of that name
    return true;
  });
  // An ensemble that went with a member comes back with it.
  const auto has = [](const std::vector<std::string>& list, const std::string& name) {
    return std::any_of(list.begin(), list.end(), [&](const std::string& n) { return n == name || n.ends_with("/" + name); });
  };
  const auto has_changed = [&](const std::string& name) { return has(changed, name) || has(gone, name); };
  for (bool again = !changed.empty() || !gone.empty(); again;) {
    again = false;
    for (const std::string& name : names) {
      if (has(changed, name) || !registry_.ready_versions(name).empty()) continue;
      auto d = repository_->read(name);
      if (!d.ok() || !d->parsed.config.ensemble_scheduling) continue;
      const auto& steps = d->parsed.config.ensemble_scheduling->step;
      if (std::none_of(steps.begin(), steps.end(), [&](const auto& s) { return has_changed(s.model_name); })) continue;
      changed.push_back(name);
      again = true;
    }
  }
  (void)load_all(changed);  // logged there; a failed model is tried again when its files change
}

std::string text_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
  const auto lines_of = [](const std::string& cell) {
    std::vector<std::string> lines{""};
    for (char c : cell) {
      if (c == '\n') lines.emplace_back();
      else lines.back() += c;
    }
    while (lines.size() > 1 && lines.back().empty()) lines.pop_back();
    return lines;
  };
  std::vector<size_t> widths(header.size());
  const auto measure = [&](const std::vector<std::string>& row) {
    for (size_t i = 0; i < header.size() && i < row.size(); ++i)
      for (const std::string& line : lines_of(row[i])) widths[i] = std::max(widths[i], line.size());
  };
  measure(header);
  for (const auto& row : rows) measure(row);
  std::string frame = "+";
  for (size_t w : widths) frame += std::string(w + 2, '-') + "+";
  frame += "\n";
  const auto print = [&](const std::vector<std::string>& row) {
    std::vector<std::vector<std::string>> cells;
    size_t height = 1;
    for (size_t i = 0; i < header.size(); ++i) {
      cells.push_back(lines_of(i < row.size() ? row[i] : ""));
      height = std::max(height, cells.back().size());
    }
    std::string out;
    for (size_t y = 0; y < height; ++y) {
      out += "|";
      for (size_t i = 0; i < cells.size(); ++i) {
        const std::string text = y < cells[i].size() ? cells[i][y] : "";
        out += " " + text + std::string(widths[i] - text.size() + 1, ' ') + "|";
      }
      out += "\n";
    }
    return out;
  };
  std::string out = frame + print(header) + frame;
  for (const auto& row : rows) out += print(row);
  return out + frame;
}

std::string model_table(server::ModelRegistry& registry) {
  std::vector<std::vector<std::string>> rows;
  for (const server::ModelStatus& s : registry.index(false)) {
    if (s.state == server::ModelState::kUnknown) continue;
    const std::string state = server::state_name(s.state);
    if (s.version < 0) rows.push_back({s.name, "-", s.reason});
    else rows.push_back({s.name, cat(s.version), s.reason.empty() ? state : cat(state, ": ", s.reason)});
  }
  return text_table({"Model", "Version", "Status"}, rows);
}

std::string backend_table(server::ModelRegistry& registry, const std::map<std::string, server::StringMap>& config) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& backend : registry.backends()) {
    JsonText j;
    j.object();
    if (auto it = config.find(backend->name()); it != config.end() && !it->second.empty()) {
      j.key("cmdline").object();
      for (const auto& [key, value] : it->second) j.key(key).string(value);
      j.end();
    }
    j.end();
    rows.push_back({backend->name(), backend->path(), j.text});
  }
  return text_table({"Backend", "Path", "Config"}, rows);
}

}  // namespace ingot::repository
