// Plan: what an engine file says: steps over the op vocabulary, buffers, weights, KV layers, limits. Plain data.
//
//   PlanFile file = TRY(PlanFile::open("engine/rank0.engine"));   // plan/plan_file.h; validated
//   for (const Step& s : file.plan().steps) print(op::op_info(s.op).name, s.tactic);
//
// Thread rule: values.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "op/op.h"
#include "tensor/dtype.h"

namespace ingot::plan {

struct Buffer {
  std::string name;  // value of the graph: names the first differing layer in golden tests
  DType dtype = DType::kF32;
  int32_t width = 1;
  int32_t rows = INGOT_ROWS_TOKENS;
  int32_t arena = -1;  // buffers of one arena share memory; -1 for the fixed buffers
};

struct Step {
  op::Op op = op::Op::kAdd;
  op::Attrs attrs{};
  std::vector<ingot_operand> in, out;
  std::vector<int32_t> weights;  // rows of Plan::weights
  std::string tactic;            // kernel row chosen at build; "": the loading device's first
};

// Weights that are made at load instead of stored. Floating ones: NormalTensor(seed, name, mean, std) of base/random.h, rounded to the
// dtype. Quantised ones: see plan/generate.h.
struct Generator {
  uint64_t seed = 0;
  double mean = 0, std = 0;
};

struct Weight {
  std::string name;
  op::WeightDesc desc{};
  // Kernel rows whose packing the bytes have. `raw`: the bytes are (also) the portable form of ingot_weight_desc.
  std::vector<std::string> packings = {};
  bool raw = true;
  std::optional<Generator> generator = {};   // then there are no bytes, and they are made in the raw form
  uint64_t offset = 0, bytes = 0, hash = 0;  // in the file; hash_bytes() of plan/hash.h
  int32_t rank = 0;                          // whose file: an engine of several ranks spreads its weights over as many files
};

// What the build was asked for. The runtime may exceed them while memory lasts.
struct Limits {
  int32_t max_batch_size = 256;
  int32_t max_input_len = 1024;
  int32_t max_seq_len = 0;  // 0: what the model's positions allow
  int32_t max_num_tokens = 8192;
  int32_t max_beam_width = 1;
};

struct Plan {
  std::string device_kind, device_id, device_name;  // that the packings were made for
  int32_t vocab_size = 0;   // width of the logits; 0: none
  int32_t hidden_size = 0;  // width of embedding rows
  int32_t max_positions = 0;  // the model's; 0: unknown
  int32_t page_tokens = 64;
  DType kv_dtype = DType::kF32;
  bool gather_context_logits = false, gather_generation_logits = false;
  std::vector<ingot_kv_layer> kv_layers;
  std::vector<int32_t> state_widths;
  std::vector<Buffer> buffers;  // the first INGOT_BUF_FIRST_FREE are the fixed ones
  std::vector<Step> steps;
  std::vector<Weight> weights;
  Limits limits;
};

// The fixed buffers, in order.
std::vector<Buffer> fixed_buffers(int32_t vocab_size);

// Weights that a kernel row may want packed: matrices and tables. The others (norms, biases, slopes, frequencies) are bound raw.
bool is_packed(op::Op o, size_t weight_index);

// The op description that a kernel row decides on.
ingot_op_desc describe_step(const Plan& plan, const Step& step);

// Every index, width, attribute and count proven consistent; the error names the step, buffer or weight, what was found and wanted.
// File offsets are checked by PlanFile. A plan that passes can be executed without a further check of its structure.
Status validate(const Plan& plan);

}  // namespace ingot::plan
