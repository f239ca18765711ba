#include "server/ensemble.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <mutex>

#include "server/ensemble_plan.h"
#include "server/server.h"

namespace ingot::server {
namespace {

// A producer that waits for a slow step goes on after this long without any progress, so that steps which need its thread cannot hang.
constexpr std::chrono::seconds kMostWait{10};

// The tensors of one level: of the request (level 0), or of one response of a decoupled step and all that follows from it.
struct Scope {
  enum class State : uint8_t { kUnknown, kAbsent, kSkipped, kPresent };  // kSkipped: its step could not run
  struct Value {
    State state = State::kUnknown;
    Tensor tensor;
  };
  Scope* parent = nullptr;
  std::list<std::unique_ptr<Scope>>::iterator self;  // in the parent's children
  int level = 0;
  bool unsent = false;          // a response is to be made of it
  size_t users = 0;             // its steps that run or wait
  size_t unstarted = 0;         // its steps whose inputs are not known yet
  std::map<int, Value> values;  // of the tensors of this level
  std::vector<bool> started;    // by step
  std::list<std::unique_ptr<Scope>> children;
};

struct Start {
  Scope* scope;
  size_t step;
};

class EnsembleRun : public std::enable_shared_from_this<EnsembleRun> {
 public:
  EnsembleRun(std::shared_ptr<const EnsemblePlan> plan, std::vector<bool> blocking, Server& server, Invocation invocation)
      : plan_(std::move(plan)), blocking_(std::move(blocking)), server_(server), invocation_(std::move(invocation)) {
    inflight_.resize(plan_->steps.size());
    waiting_.resize(plan_->steps.size());
  }

  void begin() {
    invocation_.sink->on_cancel([weak = weak_from_this()] {
      if (auto self = weak.lock()) self->cancel();
    });
    std::unique_lock lock(mutex_);
    // The levels at which responses are sent: the deepest ones that hold outputs.
    for (const auto& t : plan_->tensors) {
      if (t.output < 0 || !invocation_.request->wants_output(t.name)) continue;
      std::erase_if(leaves_, [&](int l) { return l != t.level && plan_->above(l, t.level); });
      if (std::none_of(leaves_.begin(), leaves_.end(), [&](int l) { return plan_->above(t.level, l); })) leaves_.push_back(t.level);
    }
    spare_steps();
    Scope* root = open(nullptr, 0);
    for (size_t t = 0; t < plan_->tensors.size(); ++t) {
      if (plan_->tensors[t].input < 0) continue;
      Scope::Value& v = root->values[static_cast<int>(t)];
      const Tensor* given = invocation_.request->find_input(plan_->tensors[t].name);
      v.state = given ? Scope::State::kPresent : Scope::State::kAbsent;
      if (!given) continue;
      v.tensor = *given;
      if (!v.tensor.owner) v.tensor.owner = invocation_.request;
    }
    advance(root);
    proceed(std::move(lock));
  }

 private:
  struct InnerCall {
    std::shared_ptr<Call> call;
    bool over = false;
  };

  Scope* open(Scope* parent, int level) {
    auto fresh = std::make_unique<Scope>();
    Scope* s = fresh.get();
    s->parent = parent;
    s->level = level;
    s->started = spared_;
    for (size_t i = 0; i < plan_->steps.size(); ++i) s->unstarted += plan_->steps[i].level == level && !spared_[i];
    s->unsent = std::find(leaves_.begin(), leaves_.end(), level) != leaves_.end();
    if (s->unsent) emits_.push_back(s);
    if (parent == nullptr) root_ = std::move(fresh);
    else s->self = parent->children.insert(parent->children.end(), std::move(fresh));
    return s;
  }

  // A scope that nothing will look at again gives its tensors back: a stream may have millions of them.
  void forget(Scope* s) {
    while (s->parent != nullptr && !s->unsent && s->users == 0 && s->unstarted == 0 && s->children.empty()) {
      Scope* parent = s->parent;
      parent->children.erase(s->self);
      s = parent;
    }
  }

  // Steps are not run whose outputs are ensemble outputs that nobody asked for, or lead to nothing else than those.
  void spare_steps() {
    const size_t n = plan_->steps.size();
    spared_.assign(n, false);
    const auto wanted = [&](size_t t) { return plan_->tensors[t].output >= 0 && invocation_.request->wants_output(plan_->tensors[t].name); };
    std::vector<bool> idle(plan_->tensors.size());
    for (size_t t = 0; t < idle.size(); ++t) idle[t] = plan_->tensors[t].output >= 0 && !wanted(t);
    for (size_t t = 0; t < idle.size(); ++t)  // an unwanted output that another step reads is idle when that step is
      for (const auto& s : plan_->steps)
        for (const auto& in : s.inputs)
          if (in.tensor == static_cast<int>(t)) idle[t] = false;
    for (bool again = true; again;) {
      again = false;
      for (size_t i = 0; i < n; ++i) {
        const auto& outputs = plan_->steps[i].outputs;
        if (spared_[i] || !std::all_of(outputs.begin(), outputs.end(), [&](const auto& o) { return idle[static_cast<size_t>(o.second)]; })) continue;
        spared_[i] = again = true;
        for (const auto& in : plan_->steps[i].inputs) {
          bool read = wanted(static_cast<size_t>(in.tensor));
          for (size_t k = 0; k < n; ++k)
            for (const auto& other : plan_->steps[k].inputs) read |= !spared_[k] && other.tensor == in.tensor;
          if (!read) idle[static_cast<size_t>(in.tensor)] = true;
        }
      }
    }
  }

  static const Scope::Value* find(const Scope* scope, int level, int tensor) {
    for (; scope != nullptr; scope = scope->parent) {
      if (scope->level != level) continue;
      auto it = scope->values.find(tensor);
      return it == scope->values.end() ? nullptr : &it->second;
    }
    return nullptr;
  }
  const Scope::Value* find(const Scope* scope, int tensor) const { return find(scope, plan_->tensors[static_cast<size_t>(tensor)].level, tensor); }

  // With the lock: starts the steps of this scope whose inputs are known, until nothing changes.
  void advance(Scope* scope) {
    for (bool again = !stopping(); again;) {
      again = false;
      for (size_t i = 0; i < plan_->steps.size(); ++i) {
        const EnsemblePlan::Step& s = plan_->steps[i];
        if (s.level != scope->level || scope->started[i]) continue;
        bool known = true, possible = true;
        for (const auto& in : s.inputs) {
          const Scope::Value* v = find(scope, in.tensor);
          if (v == nullptr || v->state == Scope::State::kUnknown) known = false;
          else if (v->state != Scope::State::kPresent) possible &= in.optional;
        }
        if (!known) continue;
        scope->started[i] = true;
        --scope->unstarted;
        if (!possible) {
          if (s.decoupled) continue;  // no response, so no scope
          for (const auto& [name, t] : s.outputs) scope->values[t].state = Scope::State::kSkipped;
          again = true;
          continue;
        }
        if (plan_->max_inflight != 0 && inflight_[i] >= plan_->max_inflight) {
          ++scope->users;
          waiting_[i].push_back(scope);
          ++waiting_count_;
          continue;
        }
        ++scope->users;
        start(scope, i);
      }
    }
    ++scope->users;  // so that it outlives its children
    for (auto child = scope->children.begin(); child != scope->children.end();) {
      Scope* s = (child++)->get();
      advance(s);
      forget(s);
    }
    --scope->users;
  }

  void start(Scope* scope, size_t step) {
    ++inflight_[step];
    ++running_;
    due_.push_back({scope, step});
  }

  InferRequest request_of(const Scope* scope, const EnsemblePlan::Step& s) const {
    const InferRequest& outer = *invocation_.request;
    InferRequest r;
    r.model = s.model;
    r.version = s.version;
    r.id = outer.id;
    r.parameters = outer.parameters;
    r.sequence_id = outer.sequence_id;
    r.sequence_start = outer.sequence_start;
    r.sequence_end = outer.sequence_end;
    r.priority = outer.priority;
    r.timeout_us = outer.timeout_us;
    r.accepts_many_responses = s.decoupled;
    r.part_of_another = true;
    if (outer.trace) r.trace = outer.trace->child();
    for (const auto& in : s.inputs) {
      const Scope::Value* v = find(scope, in.tensor);
      if (v == nullptr || v->state != Scope::State::kPresent) continue;
      Tensor t = v->tensor;
      t.name = in.name;
      fit_rank(t, in.rank);
      r.inputs.push_back(std::move(t));
    }
    for (const auto& [name, tensor] : s.outputs) r.outputs.push_back({.name = name});
    return r;
  }

  // Between models with and without a batch dimension: one row more or less.
  static void fit_rank(Tensor& t, size_t rank) {
    if (t.shape.size() + 1 == rank) t.shape.insert(t.shape.begin(), 1);
    else if (t.shape.size() == rank + 1 && t.shape[0] == 1) t.shape.erase(t.shape.begin());
  }

  // Runs what is due and sends what is ready, without the lock, until there is nothing left; ends the request after the last step.
  // Many threads may be in here; one of them sends.
  void proceed(std::unique_lock<std::mutex> lock) {
    for (;;) {
      if (!due_.empty()) {
        const Start next = due_.front();
        due_.pop_front();
        if (stopping()) {
          release(next);
          continue;
        }
        InferRequest request = request_of(next.scope, plan_->steps[next.step]);
        lock.unlock();
        run(next, std::move(request));
        lock.lock();
        continue;
      }
      if (!cancels_.empty()) {
        cancel_inner(lock);
        continue;
      }
      if (sending_) return;
      std::optional<InferResponse> response = stopping() ? std::nullopt : ready_response();
      if (response) {
        sending_ = true;
        lock.unlock();
        invocation_.sink->send(std::move(*response));
        lock.lock();
        sending_ = false;
        continue;
      }
      if (running_ != 0 || over_) return;
      over_ = true;
      lock.unlock();
      end();
      return;
    }
  }

  void run(const Start& next, InferRequest request) {
    auto inner = std::make_shared<InnerCall>();
    auto call = server_.infer(std::move(request), [self = shared_from_this(), next, inner](InferResponse r) { self->respond(next, inner, std::move(r)); });
    std::unique_lock lock(mutex_);
    if (!call.ok()) {
      fail(call.error());
      release(next);
      return;  // proceed() goes on
    }
    if (inner->over) return;
    inner->call = std::move(call).value();
    calls_.push_back(inner);
    if (!stopping()) return;
    const std::shared_ptr<Call> cancel = inner->call;
    lock.unlock();
    cancel->cancel();
  }

  // With the lock: a request of this step has ended.
  void release(const Start& ended) {
    const size_t step = ended.step;
    --inflight_[step];
    --running_;
    --ended.scope->users;
    if (!waiting_[step].empty() && !stopping()) {
      Scope* scope = waiting_[step].front();
      waiting_[step].pop_front();
      --waiting_count_;
      start(scope, step);
    }
    ++progress_;
    room_.notify_all();
  }

  void respond(const Start& from, const std::shared_ptr<InnerCall>& inner, InferResponse r) {
    const EnsemblePlan::Step& s = plan_->steps[from.step];
    std::unique_lock lock(mutex_);
    if (!r.ok()) {
      fail(*r.error);
    } else if (!r.empty && !stopping()) {
      Scope* scope = s.decoupled ? open(from.scope, s.opens) : from.scope;
      for (const auto& [name, t] : s.outputs) {
        Scope::Value& v = scope->values[t];
        auto out = std::find_if(r.outputs.begin(), r.outputs.end(), [&](const Tensor& o) { return o.name == name; });
        if (out == r.outputs.end()) {
          if (v.state == Scope::State::kUnknown) v.state = Scope::State::kAbsent;
          continue;
        }
        v.state = Scope::State::kPresent;
        v.tensor = std::move(*out);
        if (!v.tensor.owner)
          v.tensor = bytes_tensor(v.tensor.name, v.tensor.datatype, v.tensor.shape,
                                  std::string(reinterpret_cast<const char*>(v.tensor.data.data()), v.tensor.data.size()));
      }
      advance(scope);
      if (s.decoupled) forget(scope);
    }
    if (r.final) {
      inner->over = true;
      inner->call = nullptr;
      std::erase(calls_, inner);
      // A member that ends without a response has no outputs.
      if (!s.decoupled)
        for (const auto& [name, t] : s.outputs)
          if (Scope::Value& v = from.scope->values[t]; v.state == Scope::State::kUnknown) v.state = Scope::State::kAbsent;
      release(from);
      if (!s.decoupled) advance(from.scope);
      forget(from.scope);
    }
    proceed(std::move(lock));
    if (!r.final && blocking_[from.step]) wait_for_room();
  }

  // Back pressure: the producer's thread waits while a step behind it has more to do than it may.
  void wait_for_room() {
    std::unique_lock lock(mutex_);
    while (waiting_count_ != 0 && !stopping() && !invocation_.sink->cancelled()) {
      const uint64_t seen = progress_;
      room_.wait_for(lock, kMostWait);
      if (progress_ == seen) return;
    }
  }

  // With the lock.
  bool stopping() const { return error_ != nullptr || cancelled_; }

  void fail(const Error& e) {
    if (error_ == nullptr) error_ = std::make_unique<Error>(e);
    drop_waiting();
  }

  void drop_waiting() {
    for (auto& w : waiting_) {
      for (Scope* s : w) --s->users;
      w.clear();
    }
    waiting_count_ = 0;
    room_.notify_all();
    for (const auto& c : calls_)
      if (c->call) cancels_.push_back(c->call);  // by cancel_inner, without the lock
  }

  void cancel() {
    std::unique_lock lock(mutex_);
    cancelled_ = true;
    drop_waiting();
    cancel_inner(lock);
  }

  void cancel_inner(std::unique_lock<std::mutex>& lock) {
    while (!cancels_.empty()) {
      const std::shared_ptr<Call> c = std::move(cancels_.back());
      cancels_.pop_back();
      lock.unlock();
      c->cancel();
      lock.lock();
    }
  }

  // With the lock: the next response, if its scope has all its outputs. They leave in the order in which their scopes were opened.
  std::optional<InferResponse> ready_response() {
    InferResponse r;
    Scope* scope = nullptr;
    for (;;) {
      if (emits_.empty()) return std::nullopt;
      scope = emits_.front();
      bool skipped = false;
      for (size_t t = 0; t < plan_->tensors.size(); ++t) {
        const EnsemblePlan::Tensor& spec = plan_->tensors[t];
        if (spec.output < 0 || !plan_->above(spec.level, scope->level) || !invocation_.request->wants_output(spec.name)) continue;
        const Scope::Value* v = find(scope, static_cast<int>(t));
        if (v == nullptr || v->state == Scope::State::kUnknown) return std::nullopt;
        skipped |= v->state == Scope::State::kSkipped;
        if (v->state != Scope::State::kPresent) continue;
        Tensor out = v->tensor;
        out.name = spec.name;
        fit_rank(out, spec.rank);
        r.outputs.push_back(std::move(out));
      }
      if (!plan_->decoupled && (skipped || r.outputs.empty())) return std::nullopt;  // the request will fail
      if (!r.outputs.empty()) break;
      sent_one(scope);
    }
    if (!plan_->decoupled) {
      if (running_ != 0) return std::nullopt;  // one response, the last thing that happens
      r.final = true;
      over_ = true;
    }
    const InferRequest& outer = *invocation_.request;
    if (const auto* n = std::get_if<uint64_t>(&outer.sequence_id)) r.parameters.push_back({"sequence_id", static_cast<int64_t>(*n)});
    else r.parameters.push_back({"sequence_id", std::get<std::string>(outer.sequence_id)});
    r.parameters.push_back({"sequence_start", outer.sequence_start});
    r.parameters.push_back({"sequence_end", outer.sequence_end});
    ++sent_;
    sent_one(scope);
    return r;
  }

  void sent_one(Scope* scope) {
    emits_.pop_front();
    scope->unsent = false;
    forget(scope);
  }

  void end() {
    std::unique_lock lock(mutex_);
    const bool cancelled = cancelled_ || invocation_.sink->cancelled();
    std::unique_ptr<Error> error = std::move(error_);
    const uint64_t sent = sent_;
    lock.unlock();
    if (cancelled) return invocation_.sink->fail(Error(Code::kCancelled, cat("in ensemble '", plan_->name, "', request was cancelled")));
    if (error) return invocation_.sink->fail(Error(error->code(), cat("in ensemble '", plan_->name, "', ", error->message())));
    if (!plan_->decoupled && sent == 0)
      return invocation_.sink->fail(Error(Code::kInvalidArgument, cat("in ensemble '", plan_->name, "', unexpected deadlock, at least one output is not set "
                                                                      "while no more ensemble steps can be made")));
    invocation_.sink->finish();
  }

  std::shared_ptr<const EnsemblePlan> plan_;
  const std::vector<bool> blocking_;  // by step: its responses may wait for room
  Server& server_;
  Invocation invocation_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::vector<int> leaves_;
  std::vector<bool> spared_;  // by step
  std::unique_ptr<Scope> root_;
  std::deque<Scope*> emits_;
  std::deque<Start> due_;
  std::vector<std::deque<Scope*>> waiting_;  // by step: scopes beyond max_inflight_requests
  std::vector<uint32_t> inflight_;           // by step
  std::vector<std::shared_ptr<InnerCall>> calls_;
  std::vector<std::shared_ptr<Call>> cancels_;
  std::unique_ptr<Error> error_;
  size_t running_ = 0, waiting_count_ = 0;
  uint64_t sent_ = 0, progress_ = 0;
  bool cancelled_ = false, sending_ = false, over_ = false;
};

class Ensemble : public Model {
 public:
  Ensemble(std::shared_ptr<const EnsemblePlan> plan, std::vector<bool> blocking, Server& server)
      : plan_(std::move(plan)), blocking_(std::move(blocking)), server_(server) {}

  void execute(int, std::span<Invocation> batch) override {
    for (Invocation& i : batch) {
      i.sink->started();
      std::make_shared<EnsembleRun>(plan_, blocking_, server_, i)->begin();
    }
  }

  bool readiness_takes_time() const override {
    return std::any_of(plan_->steps.begin(), plan_->steps.end(), [&](const auto& s) { return server_.registry().readiness_takes_time(s.model); });
  }
  Status ready() const override {
    for (const EnsemblePlan::Step& s : plan_->steps) {
      const Result<bool> r = server_.registry().ready(s.model, s.version);
      if (!r.ok()) return r.error();
      if (!*r) return Error(Code::kUnavailable, cat("step '", s.model, "' of ensemble '", plan_->name, "' is not ready"));
    }
    return {};
  }

 private:
  std::shared_ptr<const EnsemblePlan> plan_;
  const std::vector<bool> blocking_;
  Server& server_;
};

}  // namespace

bool is_core_ensemble(const ModelConfig& config) {
  return config.ensemble_scheduling && (config.backend.empty() || config.backend == "ensemble") && (config.platform.empty() || config.platform == "ensemble");
}

Result<std::shared_ptr<Model>> load_ensemble(const ModelLoad& load) {
  ModelRegistry& registry = load.server.registry();
  const MemberConfig member = [&](const std::string& name, int64_t version) -> Result<ModelConfig> {
    Result<std::shared_ptr<LoadedModel>> m = registry.find(name, version);
    if (m.ok()) return m.value()->config;
    const bool others = version >= 0 && !registry.ready_versions(name).empty();
    return Error(Code::kInvalidArgument, cat("ensemble '", load.config.name, "' depends on '", name, "' ",
                                             others ? cat("whose required version ", version, " is not loaded.") : "which has no loaded version"));
  };
  ModelConfig exact = load.config;
  for (auto& step : exact.ensemble_scheduling->step)
    step.model_name = registry.step_name(step.model_namespace.empty() ? load.name_space : step.model_namespace, step.model_name);
  EnsemblePlan made = TRY(plan_ensemble(exact, member));
  load.config.decoupled = made.decoupled;
  // The thread of a decoupled member may be held up, unless another step needs that same thread or it belongs to an engine.
  std::vector<bool> blocking(made.steps.size());
  for (size_t i = 0; i < made.steps.size(); ++i) {
    const EnsemblePlan::Step& s = made.steps[i];
    Result<std::shared_ptr<LoadedModel>> m = registry.find(s.model, s.version);
    const auto uses = std::count_if(made.steps.begin(), made.steps.end(), [&](const auto& other) { return other.model == s.model; });
    blocking[i] = made.max_inflight != 0 && s.decoupled && uses == 1 && m.ok() && m.value()->model->execution() == Model::Execution::kInstances;
  }
  return std::shared_ptr<Model>(std::make_shared<Ensemble>(std::make_shared<const EnsemblePlan>(std::move(made)), std::move(blocking), load.server));
}

}  // namespace ingot::server
