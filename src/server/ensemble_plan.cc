#include "server/ensemble_plan.h"

#include <algorithm>
#include <map>

#include "server/infer.h"

namespace ingot::server {
namespace {

// What is known of an ensemble tensor's type, and from which model.
struct Known {
  std::string model;
  DataType type = DataType::kInvalid;
  std::vector<int64_t> dims, full;  // without and with the batch dimension
};

bool dims_fit(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i] && a[i] != -1 && b[i] != -1) return false;
  return true;
}

class Planner {
 public:
  Planner(const ModelConfig& config, const MemberConfig& member) : c_(config), member_(member) {}

  Result<EnsemblePlan> run() {
    plan_.name = c_.name;
    plan_.max_inflight = c_.ensemble_scheduling->max_inflight_requests;
    TRY(check_ensemble(c_));
    for (size_t i = 0; i < c_.input.size(); ++i) {
      const ModelInput& in = c_.input[i];
      const int t = TRY(learn(in.name, {c_.name, in.data_type, in.reshape ? in.reshape->shape : in.dims, {}}, c_.max_batch_size > 0));
      plan_.tensors[static_cast<size_t>(t)].input = static_cast<int>(i);
    }
    for (size_t i = 0; i < c_.output.size(); ++i) {
      const ModelOutput& out = c_.output[i];
      const std::vector<int64_t>& dims = out.reshape ? out.reshape->shape : out.dims;
      const int t = TRY(learn(out.name, {c_.name, out.data_type, dims, {}}, c_.max_batch_size > 0));
      plan_.tensors[static_cast<size_t>(t)].output = static_cast<int>(i);
      plan_.tensors[static_cast<size_t>(t)].rank = dims.size() + (c_.max_batch_size > 0);
    }
    for (size_t i = 0; i < c_.ensemble_scheduling->step.size(); ++i) TRY(add_step(i));
    TRY(find_levels());
    plan_.decoupled = plan_.levels.size() > 1;
    return std::move(plan_);
  }

 private:
  static Error wrong(std::string what) { return Error(Code::kInvalidArgument, std::move(what)); }

  Result<int> learn(const std::string& tensor, Known k, bool batching) {
    if (batching) k.full.push_back(-1);
    k.full.insert(k.full.end(), k.dims.begin(), k.dims.end());
    auto [it, fresh] = ids_.emplace(tensor, static_cast<int>(plan_.tensors.size()));
    if (fresh) {
      plan_.tensors.emplace_back();
      plan_.tensors.back().name = tensor;
      known_.push_back(std::move(k));
      return it->second;
    }
    const Known& old = known_[static_cast<size_t>(it->second)];
    const std::string where = cat("in ensemble ", c_.name, ", ensemble tensor ", tensor, ": ");
    if (old.type != k.type)
      return wrong(cat(where, "inconsistent data type: ", config_name(old.type), " is inferred from model ", old.model, " while ", config_name(k.type),
                       " is inferred from model ", k.model));
    if (!dims_fit(old.dims, k.dims) && !dims_fit(old.full, k.full))
      return wrong(cat(where, "inconsistent shape: ", shape_string(old.full), " is inferred from model ", old.model, " while ", shape_string(k.full),
                       " is inferred from model ", k.model));
    return it->second;
  }

  Status add_step(size_t index) {
    const auto& s = c_.ensemble_scheduling->step[index];
    const std::string in_ensemble = cat("in ensemble ", c_.name, ", ");
    if (s.model_name == c_.name) return wrong(cat("ensemble '", c_.name, "' has itself as step ", index));
    const ModelConfig m = TRY(member_(s.model_name, s.model_version));
    // An ensemble with a batch dimension may have members without one, as long as the whole shapes agree.
    if (m.max_batch_size != 0 && m.max_batch_size < c_.max_batch_size)
      return wrong(cat("ensemble ", c_.name, " allows maximum batch size ", c_.max_batch_size, ", but it contains model ", s.model_name,
                       " which only allows maximum batch size to be ", m.max_batch_size));
    EnsemblePlan::Step step;
    step.model = s.model_name;
    step.version = s.model_version;
    step.decoupled = m.is_decoupled();
    step.batching = m.max_batch_size > 0;
    for (const auto& [name, tensor] : s.input_map) {
      const ModelInput* in = m.find_input(name);
      if (in == nullptr)
        return wrong(cat(in_ensemble, "ensemble tensor ", tensor, " is mapping to non-existing input ", name, " in model ", s.model_name));
      const int t = TRY(learn(tensor, {s.model_name, in->data_type, in->dims, {}}, step.batching));
      step.inputs.push_back({name, t, in->dims.size() + step.batching, in->optional});
    }
    for (const ModelInput& in : m.input)
      if (!in.optional && s.input_map.count(in.name) == 0)
        return wrong(cat(in_ensemble, "input ", in.name, " in model ", s.model_name, " is not mapped to any ensemble tensors"));
    for (const auto& [name, tensor] : s.output_map) {
      const ModelOutput* out = m.find_output(name);
      if (out == nullptr)
        return wrong(cat(in_ensemble, "ensemble tensor ", tensor, " is mapped from non-existing output ", name, " in model ", s.model_name));
      const int t = TRY(learn(tensor, {s.model_name, out->data_type, out->dims, {}}, step.batching));
      step.outputs.emplace_back(name, t);
    }
    plan_.steps.push_back(std::move(step));
    return {};
  }

  Status find_levels() {
    plan_.levels.push_back({});
    std::vector<bool> known(plan_.tensors.size()), done(plan_.steps.size());
    for (size_t t = 0; t < known.size(); ++t) known[t] = plan_.tensors[t].input >= 0;
    for (size_t left = plan_.steps.size(); left > 0;) {  // ends: check_ensemble() has found a way to each tensor
      for (size_t i = 0; i < plan_.steps.size(); ++i) {
        EnsemblePlan::Step& s = plan_.steps[i];
        if (done[i] || !std::all_of(s.inputs.begin(), s.inputs.end(), [&](const auto& in) { return known[static_cast<size_t>(in.tensor)]; })) continue;
        for (const auto& in : s.inputs) {
          const int level = plan_.tensors[static_cast<size_t>(in.tensor)].level;
          if (plan_.above(s.level, level)) s.level = level;
          else if (!plan_.above(level, s.level))
            return wrong(cat("in ensemble ", c_.name, ", step of model '", s.model, "' receives inputs originated from different decoupled models"));
        }
        if (s.decoupled) {
          s.opens = static_cast<int>(plan_.levels.size());
          plan_.levels.push_back({s.level, static_cast<int>(i)});
        }
        for (const auto& [name, t] : s.outputs) {
          known[static_cast<size_t>(t)] = true;
          plan_.tensors[static_cast<size_t>(t)].level = s.decoupled ? s.opens : s.level;
        }
        done[i] = true;
        --left;
      }
    }
    return {};
  }

  const ModelConfig& c_;
  const MemberConfig& member_;
  EnsemblePlan plan_;
  std::map<std::string, int> ids_;
  std::vector<Known> known_;
};

}  // namespace

Status check_ensemble(const ModelConfig& c) {
  struct Tensor {
    const StringMap* from = nullptr;  // the input map of the step that writes it
    bool used = false, ready = false;
  };
  std::map<std::string, Tensor> tensors;
  const auto wrong = [&](std::string_view what) { return Error(Code::kInvalidArgument, cat(what, " '", c.name, "'")); };
  if (!c.instance_group.empty()) return wrong("instance group should not be specified for ensemble");
  if (c.optimization) return wrong("optimization should not be specified for ensemble");
  if (!c.model_warmup.empty()) return wrong("model_warmup can not be specified for ensemble");
  const std::vector<EnsembleScheduling::Step>& steps = c.ensemble_scheduling->step;
  if (steps.empty()) return wrong("must specify 'step' for ensemble");
  for (size_t i = 0; i < steps.size(); ++i) {
    const EnsembleScheduling::Step& s = steps[i];
    if (s.model_name.empty()) return wrong(cat("must specify 'model_name' in step ", i, " of ensemble"));
    if (s.input_map.empty()) return wrong(cat("must specify 'input_map' in step ", i, " of ensemble"));
    if (s.output_map.empty()) return wrong(cat("must specify 'output_map' in step ", i, " of ensemble"));
    for (const auto& [name, tensor] : s.input_map) tensors[tensor].used = true;
    for (const auto& [name, tensor] : s.output_map) {
      Tensor& t = tensors[tensor];
      if (t.from != nullptr || std::any_of(c.input.begin(), c.input.end(), [&](const ModelInput& in) { return in.name == tensor; }))
        return Error(Code::kInvalidArgument, cat("ensemble tensor '", tensor, "' can appear in an output map only once for ensemble '", c.name, "' step ", i));
      t.from = &s.input_map;
    }
  }
  for (const ModelInput& in : c.input) {
    auto it = tensors.find(in.name);
    if (it == tensors.end()) return Error(Code::kInvalidArgument, cat("ensemble input '", in.name, "' for ensemble ", c.name, "' is not used"));  // as the old server quotes it
    it->second.ready = true;
  }
  const auto unready = [&](const Tensor& t) -> const std::string* {  // of the tensors that `t` is made of
    if (t.from != nullptr)
      for (const auto& [name, tensor] : *t.from)
        if (!tensors[tensor].ready) return &tensor;
    return nullptr;
  };
  for (bool again = true; again;) {
    again = false;
    for (auto& [name, t] : tensors)
      if (!t.ready && t.from != nullptr && unready(t) == nullptr) again = t.ready = true;
  }
  for (const ModelOutput& out : c.output) {
    auto it = tensors.find(out.name);
    if (it == tensors.end()) return Error(Code::kInvalidArgument, cat("ensemble output '", out.name, "' for ensemble ", c.name, "' is not used"));
    if (it->second.ready) continue;
    const std::string* missing = unready(it->second);
    return Error(Code::kInvalidArgument, cat("output '", out.name, "' for ensemble '", c.name, "' is not written",
                                             missing ? cat(": at least one of its depending tensors, '", *missing, "', is not connected") : ""));
  }
  for (const auto& [name, t] : tensors)
    if (c.find_output(name) == nullptr && (!t.ready || !t.used)) return wrong(cat("ensemble tensor '", name, "' is unused in ensemble"));
  return {};
}

bool EnsemblePlan::above(int level, int of) const {
  for (; of >= 0; of = levels[static_cast<size_t>(of)].parent)
    if (of == level) return true;
  return false;
}

Result<EnsemblePlan> plan_ensemble(const ModelConfig& config, const MemberConfig& member) { return Planner(config, member).run(); }

}  // namespace ingot::server
