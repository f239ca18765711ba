#include "runtime/internal/adapt.h"

#include <algorithm>
#include <cstring>

#include "runtime/internal/widen.h"

namespace ingot::runtime::internal {
namespace {

using plan::Plan;
using plan::Step;

bool offers(const std::vector<const char*>& rows, const std::string& tactic) {
  return std::any_of(rows.begin(), rows.end(), [&](const char* row) { return tactic == row; });
}

// The steps that a fused one stands for; temporaries become buffers of their own.
Result<std::vector<Step>> expanded(Plan& p, const Step& fused) {
  std::vector<op::WeightShape> shapes;
  for (int32_t w : fused.weights) {
    const op::WeightDesc& d = p.weights[static_cast<size_t>(w)].desc;
    shapes.push_back({d.experts, d.n, d.k});
  }
  std::vector<ingot_operand> values = fused.in;  // by value number of op::expand
  values.insert(values.end(), fused.out.begin(), fused.out.end());
  std::vector<Step> steps;
  for (const op::CoreStep& core : op::expand(fused.op, fused.attrs, shapes)) {
    Step s{.op = core.op, .attrs = core.attrs, .in = {}, .out = {}, .weights = {}, .tactic = {}};
    std::vector<op::Type> types;
    std::vector<op::WeightShape> used;
    for (int v : core.in) {
      const ingot_operand& o = values.at(static_cast<size_t>(v));
      const plan::Buffer& b = p.buffers[static_cast<size_t>(o.buffer)];
      s.in.push_back(o);
      types.push_back({b.rows, o.width, b.dtype == DType::kI32});
    }
    for (int w : core.weights) {
      s.weights.push_back(fused.weights.at(static_cast<size_t>(w)));
      used.push_back(shapes[static_cast<size_t>(w)]);
    }
    const std::vector<op::Type> out = TRY(op::infer(s.op, s.attrs, types, used));
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t v = static_cast<size_t>(core.out.at(i));
      if (v >= values.size()) {
        const plan::Buffer& like = p.buffers[static_cast<size_t>(fused.out[0].buffer)];
        const int32_t width = static_cast<int32_t>(out[i].width), number = static_cast<int32_t>(p.buffers.size());
        CHECK(v == values.size(), "temporaries are numbered in order");
        values.push_back({number, 0, width, width});
        p.buffers.push_back({cat(like.name, ".part", v), out[i].integer ? DType::kI32 : like.dtype, width, out[i].rows, number});
      }
      s.out.push_back(values[v]);
    }
    steps.push_back(std::move(s));
  }
  return steps;
}

// Whether the device runs the step, as it is or as core ops.
Result<bool> runs(Plan& p, const Step& step, const device::Device& device) {
  if (!device.kernels(plan::describe_step(p, step)).empty()) return true;
  const size_t buffers = p.buffers.size();
  const std::vector<Step> parts = TRY(expanded(p, step));
  const bool all = !parts.empty() && std::all_of(parts.begin(), parts.end(), [&](const Step& s) { return !device.kernels(plan::describe_step(p, s)).empty(); });
  p.buffers.resize(buffers);  // the temporaries of the parts
  return all;
}

bool floating(DType d) { return d == DType::kF32 || d == DType::kBf16 || d == DType::kF16; }

// Reals between the steps in the dtype that the device prefers.
void retype_activations(Plan& p, DType wanted) {
  for (size_t b = INGOT_BUF_FIRST_FREE; b < p.buffers.size(); ++b)
    if (floating(p.buffers[b].dtype)) p.buffers[b].dtype = wanted;
}

// Gives the quantised weights of a step the first dense description with which the device runs it; none: leaves them. Returns how many.
Result<int> widen_weights(Plan& p, const Step& step, const device::Device& device) {
  std::vector<size_t> rows;
  for (size_t i = 0; i < step.weights.size(); ++i) {
    const size_t row = static_cast<size_t>(step.weights[i]);
    if (p.weights[row].desc.group > 0 && std::find(rows.begin(), rows.end(), row) == rows.end()) rows.push_back(row);
  }
  if (rows.empty()) return 0;
  std::vector<plan::Weight> before;
  for (size_t row : rows) before.push_back(p.weights[row]);
  for (DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (size_t row : rows) {
      plan::Weight& w = p.weights[row];
      w.desc = dense_desc(w.desc, dtype);
      w.packings.clear();
      w.raw = true;
      if (!w.generator) w.bytes = op::raw_sizes(w.desc).total();
    }
    const bool run = TRY(runs(p, step, device));
    if (run) return static_cast<int>(rows.size());
  }
  for (size_t i = 0; i < rows.size(); ++i) p.weights[rows[i]] = before[i];
  return 0;
}

// Buffers and weights in the number formats of the device, where it cannot take those of the file.
Result<int> change_formats(Plan& p, const std::vector<Step>& steps, const device::Device& device) {
  int widened = 0;
  if (p.device_kind != device.kind()) {
    const ingot_device_properties properties = TRY(device.properties());
    retype_activations(p, static_cast<DType>(properties.preferred_activation_dtype));
  }
  std::vector<ingot_op_desc> known;  // that the device runs, without their layers
  for (const Step& step : steps) {
    ingot_op_desc d = plan::describe_step(p, step);
    d.attrs.layer = 0;
    if (std::any_of(known.begin(), known.end(), [&](const ingot_op_desc& k) { return std::memcmp(&k, &d, sizeof d) == 0; })) continue;
    const bool run = TRY(runs(p, step, device));
    if (run) known.push_back(d);
    else widened += TRY(widen_weights(p, step, device));
  }
  return widened;
}

}  // namespace

Result<Adapted> adapt(const Plan& original, const device::Device& device) {
  Adapted a;
  a.plan = original;
  Plan& p = a.plan;
  p.steps.clear();
  a.widened = TRY(change_formats(p, original.steps, device));
  // Steps of one description (all layers alike) are asked once.
  std::vector<std::pair<ingot_op_desc, std::string>> known;  // description without its layer -> row of the device, "" for none
  auto choose = [&](const Step& s) -> const std::string& {
    ingot_op_desc d = plan::describe_step(p, s);
    d.attrs.layer = 0;
    const bool named = !s.tactic.empty();
    for (const auto& [desc, row] : known)
      if (std::memcmp(&desc, &d, sizeof d) == 0 && (!named || row == s.tactic || row.empty())) return row;
    const std::vector<const char*> rows = device.kernels(d);
    known.emplace_back(d, rows.empty() ? "" : named && offers(rows, s.tactic) ? s.tactic : rows[0]);
    return known.back().second;
  };
  for (const Step& step : original.steps) {
    std::vector<Step> parts{step};
    if (choose(step).empty()) {
      parts = TRY(expanded(p, step));
      if (parts.empty())
        return Error(Code::kUnsupported, cat("device ", device.spec(), " has no kernel for step ", &step - original.steps.data(), ", ", device::describe(plan::describe_step(p, step)), ", which is a core op"));
      ++a.expanded;
    }
    for (Step& s : parts) {
      const std::string& row = choose(s);
      if (row.empty())
        return Error(Code::kUnsupported, cat("device ", device.spec(), " has no kernel for ", device::describe(plan::describe_step(p, s)), ", which is a core op"));
      if (row != s.tactic && parts.size() == 1) ++a.retuned;
      s.tactic = row;
      p.steps.push_back(std::move(s));
    }
  }
  p.buffers.shrink_to_fit();
  return a;
}

}  // namespace ingot::runtime::internal
