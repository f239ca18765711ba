#include <cmath>

#include "base/json.h"
#include "plan/internal/codec.h"

namespace ingot::plan::internal {
namespace {

// fn(name) for each attribute of the op.
template <class Fn>
void for_each_attribute(op::Op o, Fn&& fn) {
  std::string_view names = op::op_info(o).attributes;
  while (!names.empty()) {
    const size_t space = names.find(' ');
    fn(names.substr(0, space));
    names = space == std::string_view::npos ? std::string_view() : names.substr(space + 1);
  }
}

Json number(double v) {
  if (v == std::floor(v) && std::fabs(v) < 9e15) return static_cast<int64_t>(v);
  return v;
}

Json encode_operands(const std::vector<ingot_operand>& operands) {
  Json list = Json::array();
  for (const ingot_operand& o : operands) list.push_back(Json::array({o.buffer, o.offset, o.width, o.stride}));
  return list;
}

Json encode_step(const Step& s) {
  Json j = {{"op", op::op_info(s.op).name}};
  if (!s.tactic.empty()) j["tactic"] = s.tactic;
  j["in"] = encode_operands(s.in);
  j["out"] = encode_operands(s.out);
  if (!s.weights.empty()) j["weights"] = s.weights;
  Json attrs = Json::object();
  for_each_attribute(s.op, [&](std::string_view name) {
    if (const double v = op::attribute(s.attrs, name); v != 0) attrs[std::string(name)] = number(v);
  });
  if (!attrs.empty()) j["attrs"] = std::move(attrs);
  return j;
}

Json encode_weight(const Weight& w) {
  Json j = {{"name", w.name}, {"dtype", dtype_name(static_cast<DType>(w.desc.dtype))}, {"n", w.desc.n}, {"k", w.desc.k}};
  if (w.desc.group) j["group"] = w.desc.group;
  if (w.desc.has_zero) j["zeros"] = true;
  if (w.desc.experts) j["experts"] = w.desc.experts;
  if (w.generator) {
    j["generator"] = {{"seed", w.generator->seed}, {"mean", w.generator->mean}, {"std", w.generator->std}};
    return j;
  }
  if (!w.packings.empty()) j["packings"] = w.packings;
  if (w.raw) j["raw"] = true;
  j["offset"] = w.offset;
  j["bytes"] = w.bytes;
  j["hash"] = w.hash;
  if (w.rank) j["rank"] = w.rank;
  return j;
}

Result<Json> member(const Json& object, const char* key, std::string_view what) {
  auto it = object.find(key);
  if (it == object.end()) return Error(Code::kInvalidArgument, cat(what, " has no '", key, "'"));
  return *it;
}

// fn(element, place) for each element of an array of objects.
template <class Fn>
Status for_each_object(const Json& object, const char* key, std::string_view what, Fn&& fn) {
  auto it = object.find(key);
  if (it == object.end() || !it->is_array()) return Error(Code::kInvalidArgument, cat(what, ": '", key, "' is ", it == object.end() ? "absent" : json_type(*it), ", want an array"));
  size_t i = 0;
  for (const Json& e : *it) {
    const std::string place = cat(what, ", ", key, "[", i++, "]");
    if (!e.is_object()) return Error(Code::kInvalidArgument, cat(place, " is ", json_type(e), ", want an object"));
    TRY(fn(e, place));
  }
  return {};
}

Result<DType> decode_dtype(const Json& j, const char* key, std::string_view what) {
  Result<DType> d = parse_dtype(TRY(get<std::string>(j, key, what)));
  if (!d.ok()) return d.error().in(what);
  return d;
}

Result<std::vector<ingot_operand>> decode_operands(const Json& step, const char* key, int max, std::string_view what) {
  const Json list = TRY(member(step, key, what));
  if (!list.is_array() || list.size() > static_cast<size_t>(max))
    return Error(Code::kInvalidArgument, cat(what, ": '", key, "' is ", json_type(list), " of ", list.size(), ", want an array of at most ", max, " operands"));
  std::vector<ingot_operand> operands;
  for (const Json& e : list) {
    std::vector<int32_t> v;
    if (!ingot::internal::read(e, v) || v.size() != 4)
      return Error(Code::kInvalidArgument, cat(what, ": an operand in '", key, "' is not [buffer, offset, width, stride]"));
    operands.push_back({v[0], v[1], v[2], v[3]});
  }
  return operands;
}

Result<Step> decode_step(const Json& j, std::string_view what) {
  Step s;
  const std::string name = TRY(get<std::string>(j, "op", what));
  const op::OpInfo* info = op::find_op(name);
  if (!info) return Error(Code::kUnsupported, cat(what, ": op '", name, "' is unknown to this version, build the engine again or take a later one"));
  s.op = info->op;
  s.tactic = TRY(get_or<std::string>(j, "tactic", "", what));
  s.in = TRY(decode_operands(j, "in", INGOT_MAX_INPUTS, what));
  s.out = TRY(decode_operands(j, "out", INGOT_MAX_OUTPUTS, what));
  s.weights = TRY(get_or<std::vector<int32_t>>(j, "weights", {}, what));
  auto attrs = j.find("attrs");
  if (attrs == j.end()) return s;
  if (!attrs->is_object()) return Error(Code::kInvalidArgument, cat(what, ": 'attrs' is ", json_type(*attrs), ", want an object"));
  for (const auto& [key, v] : attrs->items()) {
    bool known = false;
    for_each_attribute(s.op, [&](std::string_view n) { known |= n == key; });
    if (!known) return Error(Code::kUnsupported, cat(what, ": op ", name, " has no attribute '", key, "'"));
    const double x = v.is_number() ? v.get<double>() : NAN;
    // 2^31 bounds every integer attribute, and no real one comes near.
    if (!(std::fabs(x) <= 2147483647.0)) return Error(Code::kInvalidArgument, cat(what, ": attribute '", key, "' is not a number within 2^31"));
    op::set_attribute(s.attrs, key, x);
  }
  return s;
}

Result<Weight> decode_weight(const Json& j, std::string_view what) {
  Weight w;
  w.name = TRY(get<std::string>(j, "name", what));
  w.desc.dtype = static_cast<int32_t>(TRY(decode_dtype(j, "dtype", what)));
  w.desc.n = TRY(get<int64_t>(j, "n", what));
  w.desc.k = TRY(get<int64_t>(j, "k", what));
  w.desc.group = TRY(get_or<int32_t>(j, "group", 0, what));
  w.desc.has_zero = TRY(get_or<bool>(j, "zeros", false, what));
  w.desc.experts = TRY(get_or<int32_t>(j, "experts", 0, what));
  if (auto g = j.find("generator"); g != j.end()) {
    Generator gen;
    gen.seed = TRY(get<uint64_t>(*g, "seed", what));
    gen.mean = TRY(get<double>(*g, "mean", what));
    gen.std = TRY(get<double>(*g, "std", what));
    w.generator = gen;
    return w;
  }
  w.packings = TRY(get_or<std::vector<std::string>>(j, "packings", {}, what));
  w.raw = TRY(get_or<bool>(j, "raw", false, what));
  w.offset = TRY(get<uint64_t>(j, "offset", what));
  w.bytes = TRY(get<uint64_t>(j, "bytes", what));
  w.hash = TRY(get<uint64_t>(j, "hash", what));
  w.rank = TRY(get_or<int32_t>(j, "rank", 0, what));
  return w;
}

Result<Buffer> decode_buffer(const Json& j, std::string_view what) {
  Buffer b;
  b.name = TRY(get_or<std::string>(j, "name", "", what));
  b.dtype = TRY(decode_dtype(j, "dtype", what));
  b.width = TRY(get<int32_t>(j, "width", what));
  const std::string rows = TRY(get<std::string>(j, "rows", what));
  if (rows != "tokens" && rows != "logits") return Error(Code::kInvalidArgument, cat(what, ": rows is '", rows, "', want tokens or logits"));
  b.rows = rows == "logits" ? INGOT_ROWS_LOGITS : INGOT_ROWS_TOKENS;
  b.arena = TRY(get<int32_t>(j, "arena", what));
  return b;
}

}  // namespace

std::string encode(const Plan& p) {
  Json j;
  j["device"] = {{"kind", p.device_kind}, {"id", p.device_id}, {"name", p.device_name}};
  j["vocab_size"] = p.vocab_size;
  j["hidden_size"] = p.hidden_size;
  j["max_positions"] = p.max_positions;
  j["limits"] = {{"max_batch_size", p.limits.max_batch_size}, {"max_input_len", p.limits.max_input_len}, {"max_seq_len", p.limits.max_seq_len},
                 {"max_num_tokens", p.limits.max_num_tokens}, {"max_beam_width", p.limits.max_beam_width}};
  j["gather_context_logits"] = p.gather_context_logits;
  j["gather_generation_logits"] = p.gather_generation_logits;
  j["kv"] = {{"dtype", dtype_name(p.kv_dtype)}, {"page_tokens", p.page_tokens}, {"layers", Json::array()}};
  for (const ingot_kv_layer& l : p.kv_layers)
    j["kv"]["layers"].push_back({{"kv_heads", l.kv_heads}, {"head_dim", l.head_dim}, {"v_head_dim", l.v_head_dim}, {"window", l.window}});
  j["state_widths"] = p.state_widths;
  Json& buffers = j["buffers"] = Json::array();
  for (const Buffer& b : p.buffers)
    buffers.push_back({{"name", b.name}, {"dtype", dtype_name(b.dtype)}, {"width", b.width}, {"rows", b.rows == INGOT_ROWS_LOGITS ? "logits" : "tokens"}, {"arena", b.arena}});
  Json& steps = j["steps"] = Json::array();
  for (const Step& s : p.steps) steps.push_back(encode_step(s));
  Json& weights = j["weights"] = Json::array();
  for (const Weight& w : p.weights) weights.push_back(encode_weight(w));
  return dump_json(j);
}

Result<Plan> decode(std::string_view text, std::string_view what) {
  const Json j = TRY(parse_json(text, what, 16));
  if (!j.is_object()) return Error(Code::kInvalidArgument, cat(what, " is ", json_type(j), ", want an object"));
  Plan p;
  const Json device = TRY(member(j, "device", what));
  p.device_kind = TRY(get<std::string>(device, "kind", what));
  p.device_id = TRY(get<std::string>(device, "id", what));
  p.device_name = TRY(get_or<std::string>(device, "name", "", what));
  p.vocab_size = TRY(get<int32_t>(j, "vocab_size", what));
  p.hidden_size = TRY(get<int32_t>(j, "hidden_size", what));
  p.max_positions = TRY(get_or<int32_t>(j, "max_positions", 0, what));
  const Json limits = TRY(member(j, "limits", what));
  p.limits.max_batch_size = TRY(get<int32_t>(limits, "max_batch_size", what));
  p.limits.max_input_len = TRY(get<int32_t>(limits, "max_input_len", what));
  p.limits.max_seq_len = TRY(get<int32_t>(limits, "max_seq_len", what));
  p.limits.max_num_tokens = TRY(get<int32_t>(limits, "max_num_tokens", what));
  p.limits.max_beam_width = TRY(get_or<int32_t>(limits, "max_beam_width", 1, what));
  p.gather_context_logits = TRY(get_or<bool>(j, "gather_context_logits", false, what));
  p.gather_generation_logits = TRY(get_or<bool>(j, "gather_generation_logits", false, what));
  const Json kv = TRY(member(j, "kv", what));
  if (!kv.is_object()) return Error(Code::kInvalidArgument, cat(what, ": 'kv' is ", json_type(kv), ", want an object"));
  p.kv_dtype = TRY(decode_dtype(kv, "dtype", what));
  p.page_tokens = TRY(get<int32_t>(kv, "page_tokens", what));
  TRY(for_each_object(kv, "layers", cat(what, ", kv"), [&](const Json& e, const std::string& place) -> Status {
    ingot_kv_layer l{};
    l.kv_heads = TRY(get<int32_t>(e, "kv_heads", place));
    l.head_dim = TRY(get<int32_t>(e, "head_dim", place));
    l.v_head_dim = TRY(get_or<int32_t>(e, "v_head_dim", 0, place));
    l.window = TRY(get_or<int32_t>(e, "window", 0, place));
    p.kv_layers.push_back(l);
    return {};
  }));
  p.state_widths = TRY(get_or<std::vector<int32_t>>(j, "state_widths", {}, what));
  TRY(for_each_object(j, "buffers", what, [&](const Json& e, const std::string& place) -> Status {
    p.buffers.push_back(TRY(decode_buffer(e, place)));
    return {};
  }));
  TRY(for_each_object(j, "steps", what, [&](const Json& e, const std::string& place) -> Status {
    p.steps.push_back(TRY(decode_step(e, place)));
    return {};
  }));
  TRY(for_each_object(j, "weights", what, [&](const Json& e, const std::string& place) -> Status {
    p.weights.push_back(TRY(decode_weight(e, place)));
    return {};
  }));
  return p;
}

}  // namespace ingot::plan::internal
