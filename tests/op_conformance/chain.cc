#include "chain.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "tensor/convert.h"

namespace ingot::conformance {
namespace {

uint64_t mix(uint64_t& s) {
  uint64_t z = (s += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

template <class T>
T* section(std::vector<std::byte>& raw, size_t at) {
  return reinterpret_cast<T*>(raw.data() + at);
}

}  // namespace

Chain::Chain(std::string case_name, std::vector<int> sequence_lengths, uint64_t seed)
    : name(std::move(case_name)), lengths(std::move(sequence_lengths)), state_(seed) {
  for (int i = 0; i < 3; ++i) values.push_back({{INGOT_ROWS_TOKENS, 1, true}, {}});
}

int Chain::rows() const {
  int n = 0;
  for (int l : lengths) n += l;
  return n;
}

float Chain::next() { return static_cast<float>(static_cast<double>(mix(state_) >> 11) * 0x1p-52 - 1.0); }

int Chain::input(int width, float scale) {
  Value v{{INGOT_ROWS_TOKENS, width, false}, {}};
  v.input.resize(static_cast<size_t>(rows()) * static_cast<size_t>(width));
  for (float& x : v.input) x = scale * (next() + next() + next());  // a peak in the middle, as activations have
  values.push_back(std::move(v));
  return static_cast<int>(values.size()) - 1;
}

int Chain::matrix(DType dtype, int64_t n, int64_t k, int group, bool zero, int experts) {
  Weight w;
  w.desc = {static_cast<int32_t>(dtype), group, zero, experts, n, k};
  w.values.shape = {experts, n, k};
  const int64_t stack = std::max(experts, 1), count = stack * n * k;
  const op::RawSizes sizes = op::raw_sizes(w.desc);
  w.raw.resize(sizes.total());
  w.values.v.resize(static_cast<size_t>(count));
  const float scale = 1.f / std::sqrt(static_cast<float>(k));
  if (group == 0) {
    std::vector<float> v(static_cast<size_t>(count));
    for (float& x : v) x = scale * (next() + next());
    CHECK(from_float(v, dtype, std::span(w.raw).first(static_cast<size_t>(storage_bytes(dtype, count)))).ok());
    std::vector<float> back(v.size());
    CHECK(to_float(View{dtype, {count}, std::span<const std::byte>(w.raw).first(static_cast<size_t>(storage_bytes(dtype, count)))}, back).ok());
    std::copy(back.begin(), back.end(), w.values.v.begin());
  } else {
    const bool nibbles = dtype == DType::kU4;
    float* scales = section<float>(w.raw, sizes.values);
    float* zeros = section<float>(w.raw, sizes.values + sizes.scales);
    uint8_t* codes = section<uint8_t>(w.raw, 0);
    const int kind = static_cast<int>(mix(state_) % 3);  // how scales and zeros are stored differs: f16 exact, integers, any
    for (int64_t g = 0; g < stack * n * (k / group); ++g) {
      const float s = scale * (nibbles ? 0.2f : dtype == DType::kF8E4M3 ? 1.2f : 0.012f) * (1.2f + next());
      scales[g] = kind == 2 ? s : f16_to_float(float_to_f16(s));
      if (!zero) continue;
      if (kind == 0) {  // as Q4_1: an f16 offset
        const float add = f16_to_float(float_to_f16(-(nibbles ? 7.3f : 3.7f) * scales[g] * (1 + 0.2f * next())));
        zeros[g] = -add / scales[g];
      } else {
        zeros[g] = kind == 1 ? static_cast<float>(mix(state_) % 16) : 8.f + 3.f * next();
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t g = i / group;  // group divides k, so groups run on over rows
      if (dtype == DType::kF8E4M3) {
        codes[i] = static_cast<uint8_t>(mix(state_) & 0xbf);  // magnitudes below 2: no NaN
        w.values.v[static_cast<size_t>(i)] = static_cast<double>(f8e4m3_to_float(codes[i])) * scales[g];
        continue;
      }
      const int code = nibbles ? static_cast<int>(mix(state_) % 16) : static_cast<int>(mix(state_) % 256) - 128;
      if (nibbles) codes[i / 2] = static_cast<uint8_t>(i % 2 ? (codes[i / 2] & 15) | code << 4 : code);
      else codes[i] = static_cast<uint8_t>(code);
      w.values.v[static_cast<size_t>(i)] = (static_cast<double>(code) - (zero ? zeros[g] : nibbles ? 8.0 : 0.0)) * scales[g];
    }
  }
  weights.push_back(std::move(w));
  return static_cast<int>(weights.size()) - 1;
}

int Chain::vector(int n, float around) {
  Weight w;
  w.vector = true;
  w.desc = {static_cast<int32_t>(DType::kF32), 0, 0, 0, 1, n};
  w.values.shape = {0, 1, n};
  w.raw.resize(op::raw_sizes(w.desc).total());
  w.values.v.resize(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    const float x = around * (1 + 0.3f * next());
    section<float>(w.raw, 0)[i] = x;
    w.values.v[static_cast<size_t>(i)] = x;
  }
  weights.push_back(std::move(w));
  return static_cast<int>(weights.size()) - 1;
}

std::vector<int> Chain::add_all(op::Op op, const op::Attrs& attrs, const std::vector<int>& in, const std::vector<int>& w) {
  Node node{op, attrs, in, w, {}};
  std::vector<op::Type> types;
  for (int v : in) types.push_back(values[static_cast<size_t>(v)].type);
  std::vector<op::WeightShape> shapes;
  for (int i : w) shapes.push_back(weights[static_cast<size_t>(i)].values.shape);
  Result<std::vector<op::Type>> out = op::infer(op, attrs, types, shapes);
  CHECK(out.ok(), name, ": ", out.error().message());
  for (const op::Type& t : *out) {
    values.push_back({t, {}});
    node.out.push_back(static_cast<int>(values.size()) - 1);
  }
  nodes.push_back(node);
  return node.out;
}

int Chain::add(op::Op op, const op::Attrs& attrs, const std::vector<int>& in, const std::vector<int>& w) {
  return add_all(op, attrs, in, w)[0];
}

void Chain::check(int value, int node) {
  checked = value;
  subject = node < 0 ? static_cast<int>(nodes.size()) - 1 : node;
}

void Chain::round_inputs(DType dtype) {
  activation = static_cast<int>(dtype);
  for (size_t i = 0; i < values.size(); ++i) round_input(static_cast<int>(i), dtype);
}

void Chain::round_input(int value, DType dtype) {
  std::vector<float>& x = values[static_cast<size_t>(value)].input;
  if (dtype == DType::kF32 || x.empty()) return;
  std::vector<std::byte> narrow(static_cast<size_t>(storage_bytes(dtype, static_cast<int64_t>(x.size()))));
  CHECK(from_float(x, dtype, narrow).ok());
  CHECK(to_float(View{dtype, {static_cast<int64_t>(x.size())}, narrow}, x).ok());
}

Schedule whole(const Chain& c) {
  Schedule s(1);
  for (size_t i = 0; i < c.lengths.size(); ++i) s[0].push_back({static_cast<int>(i), 0, c.lengths[i]});
  return s;
}

Schedule row_by_row(const Chain& c) {
  Schedule s;
  const int longest = *std::max_element(c.lengths.begin(), c.lengths.end());
  for (int t = 0; t < longest; ++t)
    for (size_t i = 0; i < c.lengths.size(); ++i)
      if (t < c.lengths[i]) s.push_back({{static_cast<int>(i), t, t + 1}});
  return s;
}

Schedule uneven(const Chain& c) {
  Schedule s;
  const int longest = *std::max_element(c.lengths.begin(), c.lengths.end());
  for (int at = 0, size = 1; at < longest; at += size, size = size * 2 + 1) {
    s.emplace_back();
    for (size_t i = c.lengths.size(); i-- > 0;)
      if (at < c.lengths[i]) s.back().push_back({static_cast<int>(i), at, std::min(at + size, c.lengths[i])});
  }
  return s;
}

Schedule answers(const Chain& c) {
  constexpr int kLast = 3;
  Schedule s(1 + kLast);
  for (size_t i = 0; i < c.lengths.size(); ++i) {
    const int length = c.lengths[i], prompt = std::max(0, length - kLast);
    if (prompt > 0) s[0].push_back({static_cast<int>(i), 0, prompt});
    for (int t = prompt; t < length; ++t) s[static_cast<size_t>(1 + t - prompt)].push_back({static_cast<int>(i), t, t + 1});
  }
  std::erase_if(s, [](const auto& pieces) { return pieces.empty(); });
  return s;
}

ingot_op_desc describe_subject(const Chain& c, int activation) {
  const Node& node = c.nodes[static_cast<size_t>(c.subject)];
  ingot_op_desc d{};
  d.op = static_cast<int32_t>(node.op);
  d.attrs = node.attrs;
  d.inputs = static_cast<int32_t>(node.in.size());
  d.outputs = static_cast<int32_t>(node.out.size());
  d.weights = static_cast<int32_t>(node.weights.size());
  const auto dtype = [&](int v) { return c.values[static_cast<size_t>(v)].type.integer ? static_cast<int>(DType::kI32) : activation; };
  for (size_t i = 0; i < node.in.size(); ++i) {
    d.in_dtype[i] = dtype(node.in[i]);
    d.in_width[i] = static_cast<int32_t>(c.values[static_cast<size_t>(node.in[i])].type.width);
  }
  for (size_t i = 0; i < node.out.size(); ++i) {
    d.out_dtype[i] = dtype(node.out[i]);
    d.out_width[i] = static_cast<int32_t>(c.values[static_cast<size_t>(node.out[i])].type.width);
  }
  for (size_t i = 0; i < node.weights.size(); ++i) d.weight[i] = c.weights[static_cast<size_t>(node.weights[i])].desc;
  return d;
}

namespace {

// A program of the chain and everything it points to.
struct Program {
  std::vector<ingot_step> steps;
  std::vector<ingot_buffer> buffers;
  std::vector<ingot_kv_layer> kv;
  std::vector<int32_t> state_widths;
  std::vector<device::DeviceMemory> memory;
  std::vector<int> buffer_of;  // value -> buffer
  ingot_program p{};
};

Result<const void*> upload(device::Device& device, Program& out, const char* tactic, const ingot_op_desc& d, int index, const Weight& w) {
  const size_t bytes = TRY(device.packed_bytes(tactic, d, index));
  std::vector<std::byte> packed(bytes);
  TRY(device.pack(tactic, d, index, w.raw.data(), packed.data()));
  std::vector<std::byte> back(w.raw.size());
  TRY(device.unpack(tactic, d, index, packed.data(), back.data()));
  if (back != w.raw) return Error(Code::kInternal, cat("unpack of '", tactic, "' weight ", index, " is not the inverse of pack"));
  device::DeviceMemory memory = TRY(device.alloc(bytes));
  TRY(device.copy(memory.data(), packed.data(), bytes));
  const void* at = memory.data();
  out.memory.push_back(std::move(memory));
  return at;
}

Status build(device::Device& device, const Chain& c, const char* tactic, Program& out) {
  const ingot_device_properties properties = TRY(device.properties());
  const int activation = c.activation >= 0 ? c.activation : properties.preferred_activation_dtype;
  const int32_t i32 = static_cast<int32_t>(DType::kI32);
  for (int i = 0; i < 3; ++i) out.buffers.push_back({i32, 1, INGOT_ROWS_TOKENS, -1 - i});
  out.buffers.push_back({0, 1, INGOT_ROWS_LOGITS, -4});
  out.buffer_of = {INGOT_BUF_TOKENS, INGOT_BUF_POSITIONS, INGOT_BUF_PROMPT_LENGTH};
  for (size_t v = 3; v < c.values.size(); ++v) {
    const op::Type& t = c.values[v].type;
    out.buffer_of.push_back(static_cast<int>(out.buffers.size()));
    out.buffers.push_back({t.integer ? i32 : activation, static_cast<int32_t>(t.width), t.rows, static_cast<int32_t>(v)});
  }
  if (c.answered) {
    const int32_t width = static_cast<int32_t>(c.values[static_cast<size_t>(c.checked)].type.width);
    out.buffer_of[static_cast<size_t>(c.checked)] = INGOT_BUF_LOGITS;
    out.buffers[INGOT_BUF_LOGITS] = {static_cast<int32_t>(DType::kF32), width, INGOT_ROWS_LOGITS, -4};
    out.p.vocab_size = width;
  }
  // A slice of rows is columns of its input, as the build makes it, where it is not what is tried.
  const auto is_view = [&](size_t n) { return c.nodes[n].op == op::Op::kSlice && c.nodes[n].attrs.group == 0 && static_cast<int>(n) != c.subject; };
  const auto operand = [&](int v) {
    const int width = static_cast<int>(c.values[static_cast<size_t>(v)].type.width);
    for (size_t n = 0; n < c.nodes.size(); ++n)
      if (c.nodes[n].out[0] == v && is_view(n)) {
        const int of = c.nodes[n].in[0];
        return ingot_operand{out.buffer_of[static_cast<size_t>(of)], c.nodes[n].attrs.begin, width, static_cast<int>(c.values[static_cast<size_t>(of)].type.width)};
      }
    return ingot_operand{out.buffer_of[static_cast<size_t>(v)], 0, width, width};
  };
  for (size_t v = 3; v < c.values.size(); ++v) {
    if (c.values[v].input.empty()) continue;
    ingot_step s{};
    s.desc.op = static_cast<int32_t>(op::Op::kEmbedding);
    s.desc.inputs = s.desc.outputs = s.desc.weights = 1;
    s.desc.attrs.scale = 1;
    s.desc.in_dtype[0] = i32;
    s.desc.in_width[0] = 1;
    s.desc.out_dtype[0] = activation;
    s.desc.out_width[0] = static_cast<int32_t>(c.values[v].type.width);
    s.desc.weight[0] = {0, 0, 0, 0, c.rows(), c.values[v].type.width};
    s.in[0] = operand(kTokens);
    s.out[0] = operand(static_cast<int>(v));
    Weight table;
    table.desc = s.desc.weight[0];
    table.raw.resize(op::raw_sizes(table.desc).total());
    std::memcpy(table.raw.data(), c.values[v].input.data(), c.values[v].input.size() * 4);
    const std::vector<const char*> names = device.kernels(s.desc);
    if (names.empty()) return Error(Code::kUnsupported, "no kernel for an f32 embedding");
    s.weight[0] = TRY(upload(device, out, names[0], s.desc, 0, table));
    out.steps.push_back(s);
  }
  std::map<std::pair<std::string, int>, const void*> uploaded;
  for (size_t n = 0; n < c.nodes.size(); ++n) {
    if (is_view(n)) continue;
    const Node& node = c.nodes[n];
    Chain shell = c;
    shell.subject = static_cast<int>(n);
    ingot_step s{};
    s.desc = describe_subject(shell, activation);
    for (size_t i = 0; i < node.in.size(); ++i) s.in[i] = operand(node.in[i]);
    for (size_t i = 0; i < node.out.size(); ++i) {
      s.out[i] = operand(node.out[i]);
      if (s.out[i].buffer == INGOT_BUF_LOGITS) s.desc.out_dtype[i] = static_cast<int32_t>(DType::kF32);
    }
    if (static_cast<int>(n) == c.subject) {
      s.tactic = tactic;
    } else {
      const std::vector<const char*> names = device.kernels(s.desc);
      if (names.empty()) return Error(Code::kUnsupported, cat("no kernel for node ", n));
      s.tactic = names[0];
    }
    for (size_t i = 0; i < node.weights.size(); ++i) {
      const void*& shared = uploaded[{s.tactic, node.weights[i]}];  // once: a device may fuse steps that share a weight
      if (!shared) shared = TRY(upload(device, out, s.tactic, s.desc, static_cast<int>(i), c.weights[static_cast<size_t>(node.weights[i])]));
      s.weight[i] = shared;
    }
    const op::Attrs& a = node.attrs;
    if (node.op == op::Op::kAttention) {
      out.kv.resize(std::max(out.kv.size(), static_cast<size_t>(a.layer) + 1), {1, 1, 1, 0});
      out.kv[static_cast<size_t>(a.layer)] = {a.kv_heads, a.head_dim, a.v_head_dim ? a.v_head_dim : a.head_dim, a.window};
    }
    if (node.op == op::Op::kShift || node.op == op::Op::kSegmentBegin) {
      out.state_widths.resize(std::max(out.state_widths.size(), static_cast<size_t>(a.layer) + 1), 1);
      out.state_widths[static_cast<size_t>(a.layer)] = s.in[0].width;
    }
    out.steps.push_back(s);
  }
  ingot_program& p = out.p;
  p.struct_bytes = sizeof p;
  p.steps = out.steps.data();
  p.n_steps = static_cast<int32_t>(out.steps.size());
  p.buffers = out.buffers.data();
  p.n_buffers = static_cast<int32_t>(out.buffers.size());
  p.kv_layers = out.kv.data();
  p.n_kv_layers = static_cast<int32_t>(out.kv.size());
  p.kv_dtype = c.kv_dtype;
  p.page_tokens = c.page_tokens;
  int pages = 0;
  for (int l : c.lengths) pages += (l + c.page_tokens - 1) / c.page_tokens;
  p.pages = pages + 2;
  p.state_widths = out.state_widths.data();
  p.n_states = static_cast<int32_t>(out.state_widths.size());
  p.state_slots = static_cast<int32_t>(c.lengths.size());
  p.max_tokens = c.rows();
  p.max_slices = static_cast<int32_t>(c.lengths.size());
  p.max_logits = std::max<int32_t>(1, static_cast<int32_t>(c.logits_rows.size()));
  p.max_pages_per_sequence = pages + 2;
  return {};
}

}  // namespace

Result<std::vector<float>> run_chain(device::Device& device, const Chain& c, const char* tactic, const Schedule& schedule) {
  Program program;
  TRY(build(device, c, tactic, program));
  device::Executable exec = TRY(device.prepare(program.p));
  const op::Type& type = c.values[static_cast<size_t>(c.checked)].type;
  const size_t width = static_cast<size_t>(type.width);
  const bool logits = type.rows == INGOT_ROWS_LOGITS;
  std::vector<float> all((logits ? c.logits_rows.size() : static_cast<size_t>(c.rows())) * width);
  std::vector<int> first(c.lengths.size() + 1, 0), first_page(c.lengths.size() + 1, 0);
  for (size_t i = 0; i < c.lengths.size(); ++i) {
    first[i + 1] = first[i] + c.lengths[i];
    first_page[i + 1] = first_page[i] + (c.lengths[i] + c.page_tokens - 1) / c.page_tokens;
  }
  const int total_pages = first_page.back();
  for (const std::vector<Piece>& pieces : schedule) {
    std::vector<int32_t> tokens, positions, prompt, begin{0}, kv, table, slots, wanted, numbers, wanted_index;
    for (const Piece& piece : pieces) {
      const size_t s = static_cast<size_t>(piece.sequence);
      for (int t = piece.begin; t < piece.end; ++t) {
        const int number = first[s] + t;
        for (size_t i = 0; i < c.logits_rows.size(); ++i)
          if (c.logits_rows[i] == number) {
            wanted.push_back(static_cast<int32_t>(tokens.size()));
            wanted_index.push_back(static_cast<int32_t>(i));
          }
        numbers.push_back(number);
        tokens.push_back(number);
        positions.push_back(t);
        prompt.push_back(c.prompt_length ? c.prompt_length : c.lengths[s]);
      }
      begin.push_back(static_cast<int32_t>(tokens.size()));
      kv.push_back(piece.end);
      slots.push_back(piece.sequence);
      for (int i = 0; i < program.p.max_pages_per_sequence; ++i)  // pages scattered: backwards
        table.push_back(i < first_page[s + 1] - first_page[s] ? total_pages + 1 - (first_page[s] + i) : -7);
    }
    ingot_bindings b{};
    b.struct_bytes = sizeof b;
    b.tokens_count = static_cast<int32_t>(tokens.size());
    b.slices = static_cast<int32_t>(pieces.size());
    b.logits = static_cast<int32_t>(wanted.size());
    b.tokens = tokens.data();
    b.positions = positions.data();
    b.prompt_length = prompt.data();
    b.slice_begin = begin.data();
    b.kv_length = kv.data();
    b.page_table = table.data();
    b.state_slot = slots.data();
    b.logits_row = wanted.data();
    b.dump_buffer = c.answered ? -1 : program.buffer_of[static_cast<size_t>(c.checked)];
    b.want_logits = c.answered;
    if (logits && wanted.empty() && !c.answered) continue;
    const uint64_t ticket = TRY(exec.run(b));
    ingot_results r{};
    r.struct_bytes = sizeof r;
    TRY(exec.wait(ticket, r));
    if (logits && wanted.empty()) continue;  // it was for the cache alone
    const float* got = c.answered ? r.logits : r.dump;
    if (!got) return Error(Code::kInternal, c.answered ? "the device gave no logits" : "the device filled no dump");
    const size_t rows = logits ? wanted.size() : tokens.size();
    for (size_t i = 0; i < rows; ++i)
      std::copy_n(got + i * width, width, all.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(logits ? wanted_index[i] : numbers[i]) * width));
  }
  return all;
}

op::Matrix reference_of(const Chain& c) {
  std::vector<op::Matrix> values(c.values.size());
  const int rows = c.rows();
  for (int v = 0; v < 3; ++v) values[static_cast<size_t>(v)] = op::Matrix(rows, 1);
  std::vector<op::SequenceState> states(c.lengths.size());
  std::vector<op::Slice> slices;
  for (size_t s = 0, at = 0; s < c.lengths.size(); ++s) {
    slices.push_back({static_cast<int>(at), static_cast<int>(at) + c.lengths[s], 0, &states[s]});
    for (int t = 0; t < c.lengths[s]; ++t, ++at) {
      values[kTokens].row(static_cast<int64_t>(at))[0] = static_cast<double>(at);
      values[kPositions].row(static_cast<int64_t>(at))[0] = t;
      values[kPromptLength].row(static_cast<int64_t>(at))[0] = c.prompt_length ? c.prompt_length : c.lengths[s];
    }
  }
  for (size_t v = 3; v < c.values.size(); ++v) {
    if (c.values[v].input.empty()) continue;
    values[v] = op::Matrix(rows, c.values[v].type.width);
    std::copy(c.values[v].input.begin(), c.values[v].input.end(), values[v].v.begin());
  }
  for (const Node& node : c.nodes) {
    op::Call call{node.op, node.attrs, {}, {}, {slices, c.logits_rows}};
    for (int v : node.in) call.in.push_back(&values[static_cast<size_t>(v)]);
    for (int w : node.weights) call.weights.push_back(&c.weights[static_cast<size_t>(w)].values);
    std::vector<op::Matrix> out(node.out.size());
    op::reference(call, out);
    for (size_t i = 0; i < out.size(); ++i) values[static_cast<size_t>(node.out[i])] = out[i];
  }
  return values[static_cast<size_t>(c.checked)];
}

}  // namespace ingot::conformance
