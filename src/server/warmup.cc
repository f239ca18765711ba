#include "server/warmup.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <random>

#include "base/files.h"
#include "server/complete.h"
#include "server/server.h"
#include "server/settings.h"

namespace ingot::server {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;
constexpr uint32_t kMostCount = 1 << 20;
constexpr uint64_t kSeed = 20240101;  // the same bytes at every start

// Waits for the end of the requests of one execution; keeps the first error.
class Gate {
 public:
  explicit Gate(size_t n) : left_(n) {}
  void end(std::unique_ptr<Error> e) {
    std::lock_guard lock(mutex_);
    if (e && !error_) error_ = std::move(e);
    if (--left_ == 0) done_.notify_all();
  }
  Status wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return left_ == 0; });
    if (error_) return *error_;
    return {};
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  size_t left_;
  std::unique_ptr<Error> error_;
};

class WarmupSink : public ResponseSink {
 public:
  explicit WarmupSink(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  void send(InferResponse r) override {
    if ((r.final || !r.ok()) && !over_.exchange(true)) gate_->end(std::move(r.error));
  }
  bool cancelled() const override { return false; }
  void on_cancel(std::function<void()>) override {}
  CallTimes& times() override { return times_; }
  void started() override {}
  Status update_state(Tensor) override { return {}; }

 private:
  std::shared_ptr<Gate> gate_;
  CallTimes times_;
  std::atomic<bool> over_{false};
};

Result<Tensor> make_input(const ModelConfig& c, const ModelWarmup& w, const std::string& name, const ModelWarmup::Input& in, const std::string& directory,
                          std::mt19937_64& random) {
  const auto wrong = [&](std::string_view what) {
    return Error(Code::kInvalidArgument, cat("warm-up '", w.name, "' of model '", c.name, "', input '", name, "': ", what));
  };
  std::vector<int64_t> shape = in.dims;
  if (std::any_of(shape.begin(), shape.end(), [](int64_t d) { return d < 0; })) return wrong(cat("dims are ", shape_string(shape), ", want fixed ones"));
  if (c.max_batch_size > 0) shape.insert(shape.begin(), 1);
  const int64_t elements = shape_elements(shape);
  const bool strings = in.data_type == DataType::kBytes;
  int64_t bytes = 0;
  if (in.data_type == DataType::kInvalid) return wrong("no data_type");
  if (elements < 0 || __builtin_mul_overflow(elements, strings ? 4 : element_bytes(in.data_type), &bytes) || bytes > static_cast<int64_t>(kMostBytes))
    return wrong(cat(shape_string(shape), " is too large, want at most 1 GiB"));
  if (!in.input_data_file.empty()) {
    const std::string path = join_path(join_path(directory, "warmup"), in.input_data_file);
    std::string data = TRY(read_file(path, kMostBytes));
    if (!strings && static_cast<int64_t>(data.size()) != bytes) return wrong(cat(path, " has ", data.size(), " bytes, want ", bytes));
    return bytes_tensor(name, in.data_type, std::move(shape), std::move(data));
  }
  std::string data(static_cast<size_t>(bytes), '\0');  // empty strings, zeros
  if (in.random_data && strings) {
    data.clear();
    for (int64_t i = 0; i < elements; ++i) {
      const uint32_t length = static_cast<uint32_t>(1 + random() % 16);
      data.append(reinterpret_cast<const char*>(&length), 4);
      for (uint32_t k = 0; k < length; ++k) data += static_cast<char>('a' + random() % 26);
    }
  } else if (in.random_data) {
    for (char& b : data) b = static_cast<char>(in.data_type == DataType::kBool ? random() & 1 : random());
  }
  return bytes_tensor(name, in.data_type, std::move(shape), std::move(data));
}

// What a sequence batcher would add to the first request of a sequence.
void add_sequence_inputs(const ModelConfig& c, InferRequest& r) {
  if (!c.sequence_batching) return;
  r.sequence_id = uint64_t{1};
  r.sequence_start = true;
  std::vector<int64_t> shape{1};
  if (c.max_batch_size > 0) shape.push_back(1);
  using Kind = SequenceBatching::Control::Kind;
  for (const auto& input : c.sequence_batching->control_input)
    for (const auto& k : input.control) {
      const size_t on = k.kind == Kind::kSequenceStart || k.kind == Kind::kSequenceReady;
      if (k.kind == Kind::kSequenceCorrid && k.data_type == DataType::kBytes) r.inputs.push_back(string_tensor(input.name, shape, {"1"}));
      else if (k.kind == Kind::kSequenceCorrid)
        r.inputs.push_back(bytes_tensor(input.name, k.data_type, shape, std::string(static_cast<size_t>(element_bytes(k.data_type)), '\0').replace(0, 1, "\x01", 1)));
      else if (!k.int32_false_true.empty()) r.inputs.push_back(scalar_tensor<int32_t>(input.name, shape, k.int32_false_true[on]));
      else if (!k.fp32_false_true.empty()) r.inputs.push_back(scalar_tensor<float>(input.name, shape, k.fp32_false_true[on]));
      else r.inputs.push_back(scalar_tensor<bool>(input.name, shape, k.bool_false_true[on]));
    }
  for (const auto& s : c.sequence_batching->state) {
    if (r.find_input(s.input_name) != nullptr) continue;
    std::vector<int64_t> dims = s.dims;
    for (int64_t& d : dims) d = std::max<int64_t>(d, 1);
    if (c.max_batch_size > 0) dims.insert(dims.begin(), 1);
    const int64_t n = std::max<int64_t>(0, shape_elements(dims)) * (s.data_type == DataType::kBytes ? 4 : element_bytes(s.data_type));
    r.inputs.push_back(bytes_tensor(s.input_name, s.data_type, dims, std::string(static_cast<size_t>(n), '\0')));
  }
}

// As a client's request would be looked at; states of a sequence are no client's to send.
Status check_inputs(const ModelConfig& c, const InferRequest& request) {
  InferRequest given;
  given.model = request.model;
  for (const Tensor& t : request.inputs)
    if (c.find_input(t.name) != nullptr || !c.sequence_batching) given.inputs.push_back(t);
  return validate_request(c, given);
}

}  // namespace

Status warm_up(const ModelConfig& c, Model& model, const std::string& directory) {
  std::mt19937_64 random(kSeed);
  const int instances = model.execution() == Model::Execution::kDirect ? 1 : std::max(1, model.instances());
  for (const ModelWarmup& w : c.model_warmup) {
    const uint32_t rows = std::max<uint32_t>(1, w.batch_size);
    if (rows > static_cast<uint32_t>(std::max(1, c.max_batch_size)))
      return Error(Code::kInvalidArgument, cat("warm-up '", w.name, "' of model '", c.name, "' has batch_size ", rows, ", want at most ", std::max(1, c.max_batch_size)));
    if (w.count > kMostCount)
      return Error(Code::kInvalidArgument, cat("warm-up '", w.name, "' of model '", c.name, "' has count ", w.count, ", want at most ", kMostCount));
    auto request = std::make_shared<InferRequest>();
    request->model = c.name;
    request->id = "warmup";
    request->accepts_many_responses = true;
    for (const auto& [name, in] : w.inputs) {
      Result<Tensor> t = make_input(c, w, name, in, directory, random);
      if (!t.ok()) return t.error();
      request->inputs.push_back(std::move(t).value());
    }
    if (Status s = check_inputs(c, *request); !s.ok())
      return Error(s.error().code(), cat("warm-up '", w.name, "' of model '", c.name, "': ", s.error().message()));
    if (model.execution() == Model::Execution::kInstances) reshape_inputs(c, request->inputs);
    add_sequence_inputs(c, *request);
    for (int instance = 0; instance < instances; ++instance) {
      if (!model.is_new(instance)) continue;
      INGOT_LOG(kVerbose, cat("model '", c.name, "' instance ", instance, " is running warmup sample '", w.name, "'"));
      for (uint32_t i = 0; i < std::max<uint32_t>(1, w.count); ++i) {
        auto gate = std::make_shared<Gate>(rows);
        std::vector<Invocation> batch;
        for (uint32_t row = 0; row < rows; ++row) batch.push_back({request, std::make_shared<WarmupSink>(gate)});
        if (model.execution() == Model::Execution::kDirect)
          for (Invocation& one : batch) model.execute(0, std::span(&one, 1));
        else
          model.execute(instance, batch);
        if (Status s = gate->wait(); !s.ok())
          return Error(s.error().code(), cat("failed to run warmup sample '", w.name, "' for model '", c.name, "': ", s.error().message()));
      }
    }
  }
  return {};
}

}  // namespace ingot::server
