// A body and a header length -> tensors (JSON, binary, raw), validated, and back to a response; and the same body through generate.
#include <cstdint>

#include "frontends/compression.h"
#include "frontends/generate_json.h"
#include "frontends/infer_json.h"
#include "server/server.h"

using namespace ingot;
using namespace ingot::server;

namespace {

ModelConfig make_config(bool raw, bool batched) {
  ModelConfig c;
  c.name = "m";
  c.max_batch_size = batched ? 4 : 0;
  const int first = raw ? static_cast<int>(DataType::kFp32) : 1, last = raw ? first + 1 : kDataTypeCount;
  for (int t = first; t < last; ++t) {
    ModelInput i;
    i.name = std::string(1, static_cast<char>('A' + t));
    i.data_type = static_cast<DataType>(t);
    i.dims = t % 2 ? std::vector<int64_t>{-1} : std::vector<int64_t>{2, -1};
    i.optional = true;
    c.input.push_back(i);
    ModelOutput o;
    o.name = i.name;
    o.data_type = i.data_type;
    c.output.push_back(o);
  }
  return c;
}

void respond(InferRequest request, const frontends::OutputSpecs& specs, const ModelConfig& config) {
  if (!validate_request(config, request).ok()) return;
  InferResponse r;
  r.model = "m";
  r.id = request.id;
  r.parameters = request.parameters;
  r.outputs = request.inputs;
  (void)frontends::write_infer_response(r, specs, {});
  std::string text;
  (void)frontends::append_generate_response(text, r);
  for (const Tensor& t : r.outputs) {
    (void)read_integer(t, 0);
    (void)read_number(t, 1);
    (void)read_bool(t, 0);
    if (t.datatype == DataType::kBytes) CHECK(read_strings(t).ok());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  static const ModelConfig configs[4] = {make_config(false, false), make_config(false, true), make_config(true, false), make_config(true, true)};
  const ModelConfig& config = configs[data[0] & 3];
  std::optional<int64_t> header;
  if (data[0] & 4) header = static_cast<int8_t>(data[1]) >= 0 && !(data[0] & 8) ? data[1] + 256 * (data[2] & 3) : static_cast<int8_t>(data[1]);
  auto body = std::make_shared<const std::string>(reinterpret_cast<const char*>(data) + 3, size - 3);
  const SharedMemory shm;
  const frontends::InferLimits limits{.input_bytes = 1 << 16, .json_depth = 100};
  if (data[0] & 16) {
    Result<InferRequest> r = frontends::parse_generate_body(*body, config, limits);
    if (r.ok()) respond(std::move(r).value(), {}, config);
  } else if (data[0] & 32) {
    (void)frontends::decompress(*body, data[1] & 1 ? frontends::Encoding::kGzip : frontends::Encoding::kDeflate, 1 << 16);
  } else {
    Result<frontends::InferBody> b = frontends::parse_infer_body(body, header, config, shm, limits);
    if (b.ok()) respond(std::move(b->request), b->outputs, config);
  }
  return 0;
}
