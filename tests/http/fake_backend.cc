#include "http/fake_backend.h"

#include <condition_variable>
#include <map>
#include <thread>

#include "base/json.h"
#include "base/json_text.h"
#include "http/fake_batch.h"
#include "server/llm_names.h"

namespace ingot::test {
namespace {

using namespace server;
namespace names = server::llm;

ModelInput input(const char* name, DataType type, std::vector<int64_t> dims, bool optional = false) {
  ModelInput i;
  i.name = name;
  i.data_type = type;
  i.dims = std::move(dims);
  i.optional = optional;
  return i;
}

ModelOutput output(const char* name, DataType type, std::vector<int64_t> dims) {
  ModelOutput o;
  o.name = name;
  o.data_type = type;
  o.dims = std::move(dims);
  return o;
}

class TensorModel : public Model {
 public:
  explicit TensorModel(std::string name) : name_(std::move(name)) {}

  void execute(int, std::span<Invocation> batch) override {
    for (Invocation& i : batch) {
      i.sink->started();
      run(i);
    }
  }

 private:
  void run(Invocation& i) {
    const InferRequest& r = *i.request;
    InferResponse out;
    out.final = true;
    if (name_ == "broken") return i.sink->fail(Error(Code::kInternal, "the model is broken on purpose"));
    if (name_ == "blocked") {
      // Ends only when its client gives up.
      std::shared_ptr<ResponseSink> sink = i.sink;
      sink->on_cancel([sink] { std::thread([sink] { sink->fail(Error(Code::kCancelled, "cancelled while blocked")); }).detach(); });
      return;
    }
    if (name_ == "many") {
      const int64_t n = read_integer(r.inputs[0]).value_or(0);
      for (int64_t k = 0; k < n; ++k) {
        InferResponse one;
        one.outputs.push_back(scalar_tensor<int32_t>("OUT", {1}, static_cast<int32_t>(k)));
        i.sink->send(std::move(one));
      }
      return i.sink->finish();
    }
    if (name_ == "add_sub") {
      std::vector<int32_t> sum, difference;
      for (int64_t k = 0; k < r.inputs[0].elements(); ++k) {
        const int64_t a = read_integer(*r.find_input("INPUT0"), k).value_or(0), b = read_integer(*r.find_input("INPUT1"), k).value_or(0);
        sum.push_back(static_cast<int32_t>(a + b));
        difference.push_back(static_cast<int32_t>(a - b));
      }
      if (r.wants_output("OUTPUT0")) out.outputs.push_back(vector_tensor<int32_t>("OUTPUT0", r.inputs[0].shape, sum));
      if (r.wants_output("OUTPUT1")) out.outputs.push_back(vector_tensor<int32_t>("OUTPUT1", r.inputs[0].shape, difference));
      return i.sink->send(std::move(out));
    }
    out.parameters = r.parameters;
    for (const Tensor& t : r.inputs) {
      Tensor copy = t;
      copy.name = "O" + t.name.substr(1);  // I_FP32 -> O_FP32
      if (r.wants_output(copy.name)) out.outputs.push_back(std::move(copy));
    }
    i.sink->send(std::move(out));
  }
  std::string name_;
};

class TensorBackend : public Backend {
 public:
  std::string name() const override { return "fake_tensor"; }
  Result<std::shared_ptr<Model>> load(const ModelLoad& load) override {
    if (load.config.name == "unloadable") return Error(Code::kInvalidArgument, "this model never loads");
    return std::shared_ptr<Model>(std::make_shared<TensorModel>(load.config.name));
  }
};

// Answers with the words of its prompt, one response per word, `delay_ms` apart (request parameter), on a thread of its own.
class WordModel : public Model {
 public:
  WordModel() : thread_([this] { run(); }) {}
  ~WordModel() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  std::string attribute(std::string_view name) const override {
    if (name == names::kKindAttribute) return "llm";
    if (name == names::kChatTemplateAttribute) return "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    if (name == names::kContextLengthAttribute) return "4096";
    return "";
  }

  void execute(int, std::span<Invocation> batch) override {
    for (Invocation& i : batch) {
      Result<Job> job = make(i);
      if (!job.ok()) {
        i.sink->fail(job.error());
        continue;
      }
      std::lock_guard lock(mutex_);
      jobs_.emplace(std::chrono::steady_clock::now() + job->delay, std::move(job).value());
      wake_.notify_all();
    }
  }

 private:
  struct Job {
    Invocation i;
    std::vector<std::string> words;
    std::string finish = "stop";
    bool stream = false, details = false, logprobs = false, tool = false;
    int64_t n = 1, prompt_tokens = 0;
    size_t at = 0;
    std::chrono::milliseconds delay{0};
  };

  static Result<std::string> text_of(const InferRequest& r, const char* name) {
    if (const Tensor* t = r.find_input(name)) {
      std::vector<std::string_view> s = TRY(read_strings(*t));
      return s.empty() ? std::string() : std::string(s[0]);
    }
    if (const ParameterValue* p = find_parameter(r.parameters, name)) return str(*p);
    return std::string();
  }
  static int64_t integer_of(const InferRequest& r, const char* name, int64_t otherwise) {
    if (const Tensor* t = r.find_input(name)) return read_integer(*t).value_or(otherwise);
    if (const ParameterValue* p = find_parameter(r.parameters, name)) {
      if (auto* n = std::get_if<int64_t>(p)) return *n;
      if (auto* b = std::get_if<bool>(p)) return *b;
    }
    return otherwise;
  }

  static Result<Job> make(Invocation& i) {
    const InferRequest& r = *i.request;
    Job job;
    job.i = i;
    std::string prompt = TRY(text_of(r, names::kTextInput));
    const std::string messages = TRY(text_of(r, names::kMessages));
    if (!messages.empty()) {
      const Json json = TRY(parse_json(messages, "messages"));
      const Json& content = json.back()["content"];
      prompt = content.is_string() ? content.get<std::string>() : dump_json(content);
    }
    std::string word;
    for (char c : prompt) {
      if (c == ' ' && !word.empty()) job.words.push_back(std::exchange(word, ""));
      word += c;
    }
    if (!word.empty()) job.words.push_back(word);
    job.prompt_tokens = static_cast<int64_t>(job.words.size());
    if (integer_of(r, "repeat", 1) > 1) {
      const std::vector<std::string> once = job.words;
      for (int64_t k = 1; k < integer_of(r, "repeat", 1); ++k) job.words.insert(job.words.end(), once.begin(), once.end());
    }
    const std::string stop = TRY(text_of(r, names::kStopWords));
    if (!stop.empty() && stop[0] == '[') {
      for (const Json& s : TRY(parse_json(stop, "stop_words")))
        for (size_t k = 0; k < job.words.size(); ++k)
          if (s.is_string() && job.words[k].find(s.get<std::string>()) != std::string::npos) job.words.resize(k);
    }
    const int64_t most = integer_of(r, names::kMaxTokens, 1000);
    if (static_cast<int64_t>(job.words.size()) > most) job.words.resize(static_cast<size_t>(std::max<int64_t>(most, 0))), job.finish = "length";
    job.stream = integer_of(r, names::kStream, 0) != 0;
    job.details = integer_of(r, names::kDetails, 0) != 0;
    job.logprobs = integer_of(r, names::kTopLogProbs, -1) >= 0;
    job.tool = !TRY(text_of(r, names::kTools)).empty();
    job.n = integer_of(r, names::kN, 1);
    job.delay = std::chrono::milliseconds(integer_of(r, "delay_ms", 0));
    if (prompt == "fail") return Error(Code::kInvalidArgument, "the prompt asks for a failure");
    if (prompt == "full") return Error(Code::kUnavailable, "Exceeds maximum queue size");
    return job;
  }

  static InferResponse response(const Job& job, int64_t sequence, std::string_view text, int64_t tokens, bool last) {
    InferResponse r;
    r.outputs.push_back(string_tensor(names::kTextOutput, {1}, {text}));
    if (!job.details) return r;
    r.parameters.push_back({names::kSequence, sequence});
    r.parameters.push_back({names::kCompletionTokens, tokens});
    if (job.logprobs && !text.empty()) {
      JsonText j;
      j.array().object().key("token").string(text).key("logprob").number(-0.5).key("bytes").null().key("top_logprobs").array().end().end().end();
      r.parameters.push_back({names::kLogProbs, std::move(j.text)});
    }
    if (last) {
      r.parameters.push_back({names::kFinishReason, job.tool ? std::string("tool_calls") : job.finish});
      r.parameters.push_back({names::kPromptTokens, job.prompt_tokens});
      r.parameters.push_back({names::kCachedTokens, int64_t{0}});
      if (job.tool)
        r.parameters.push_back({names::kToolCalls, std::string(R"([{"index":0,"id":"call_1","type":"function","function":)"
                                                              R"({"name":"weather","arguments":"{\"city\":\"Bern\"}"}}])")});
    }
    return r;
  }

  // True when the job is over.
  static bool step(Job& job) {
    ResponseSink& sink = *job.i.sink;
    if (sink.cancelled()) {
      sink.fail(Error(Code::kCancelled, "cancelled"));
      return true;
    }
    const int64_t count = static_cast<int64_t>(job.words.size());
    if (!job.stream) {
      std::string all;
      if (!job.tool)
        for (const std::string& w : job.words) all += w;
      for (int64_t s = 0; s < job.n; ++s) {
        InferResponse r = response(job, s, all, count, true);
        r.final = s + 1 == job.n;
        sink.send(std::move(r));
      }
      return true;
    }
    const bool last = job.at + 1 >= job.words.size();
    for (int64_t s = 0; s < job.n; ++s) {
      InferResponse r = response(job, s, job.tool || job.words.empty() ? "" : job.words[job.at], static_cast<int64_t>(job.at) + 1, last);
      r.final = last && s + 1 == job.n;
      sink.send(std::move(r));
    }
    ++job.at;
    return last;
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (stop_) break;
      if (jobs_.empty()) {
        wake_.wait(lock);
        continue;
      }
      const auto due = jobs_.begin()->first;
      if (due > std::chrono::steady_clock::now()) {
        wake_.wait_until(lock, due);
        continue;
      }
      Job job = std::move(jobs_.extract(jobs_.begin()).mapped());
      lock.unlock();
      job.i.sink->started();
      while (job.delay.count() == 0 && !step(job)) {
      }
      const bool again = job.delay.count() != 0 && !step(job);
      lock.lock();
      if (again) jobs_.emplace(std::chrono::steady_clock::now() + job.delay, std::move(job));
    }
    for (auto& [due, job] : jobs_) job.i.sink->fail(Error(Code::kUnavailable, "unloaded"));
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::multimap<std::chrono::steady_clock::time_point, Job> jobs_;
  bool stop_ = false;
  std::thread thread_;
};

class WordBackend : public Backend {
 public:
  std::string name() const override { return "fake_llm"; }
  Result<std::shared_ptr<Model>> load(const ModelLoad&) override { return std::shared_ptr<Model>(std::make_shared<WordModel>()); }
};

ModelConfig base(const char* name, const char* backend, int batch) {
  ModelConfig c;
  c.name = name;
  c.backend = backend;
  c.max_batch_size = batch;
  return c;
}

std::vector<ModelConfig> configs() {
  std::vector<ModelConfig> all;
  ModelConfig echo = base("echo", "fake_tensor", 0);
  for (int t = 1; t < kDataTypeCount; ++t) {
    const DataType type = static_cast<DataType>(t);
    static std::string held[2][kDataTypeCount];
    held[0][t] = cat("I_", protocol_name(type));
    held[1][t] = cat("O_", protocol_name(type));
    echo.input.push_back(input(held[0][t].c_str(), type, {-1, -1}, true));
    echo.output.push_back(output(held[1][t].c_str(), type, {-1, -1}));
  }
  all.push_back(echo);
  ModelConfig add = base("add_sub", "fake_tensor", 4);
  for (const char* n : {"INPUT0", "INPUT1"}) add.input.push_back(input(n, DataType::kInt32, {4}));
  for (const char* n : {"OUTPUT0", "OUTPUT1"}) add.output.push_back(output(n, DataType::kInt32, {4}));
  all.push_back(add);
  ModelConfig raw = base("raw", "fake_tensor", 0);
  raw.input.push_back(input("I", DataType::kFp32, {-1}));
  raw.output.push_back(output("O", DataType::kFp32, {-1}));
  all.push_back(raw);
  for (const char* n : {"broken", "blocked"}) {
    ModelConfig c = base(n, "fake_tensor", 0);
    c.input.push_back(input("IN", DataType::kInt32, {1}));
    c.output.push_back(output("OUT", DataType::kInt32, {1}));
    all.push_back(c);
  }
  ModelConfig many = base("many", "fake_tensor", 0);
  many.input.push_back(input("IN", DataType::kInt32, {1}));
  many.output.push_back(output("OUT", DataType::kInt32, {1}));
  many.decoupled = true;
  all.push_back(many);
  ModelConfig llm = base("llm", "fake_llm", 8);
  llm.input.push_back(input(names::kTextInput, DataType::kBytes, {1}, true));
  llm.input.push_back(input(names::kMessages, DataType::kBytes, {1}, true));
  llm.input.push_back(input(names::kTools, DataType::kBytes, {1}, true));
  llm.input.push_back(input(names::kMaxTokens, DataType::kInt32, {1}, true));
  llm.input.push_back(input(names::kStream, DataType::kBool, {1}, true));
  llm.input.push_back(input(names::kTemperature, DataType::kFp32, {1}, true));
  llm.input.push_back(input(names::kStopWords, DataType::kBytes, {-1}, true));
  llm.input.push_back(input(names::kBadWords, DataType::kBytes, {-1}, true));
  llm.output.push_back(output(names::kTextOutput, DataType::kBytes, {-1}));
  all.push_back(llm);
  for (ModelConfig& c : batch_configs()) all.push_back(std::move(c));
  return all;
}

class TableSource : public ModelSource {
 public:
  Result<ModelSpec> describe(const std::string& name, const LoadParameters&) override {
    for (ModelConfig& c : configs())
      if (c.name == name) return ModelSpec{std::move(c), {1}, "", true};
    if (name == "unloadable") return ModelSpec{base("unloadable", "fake_tensor", 0), {1}, "", true};
    return Error(Code::kNotFound, cat("no model '", name, "'"));
  }
  std::vector<std::string> names() override {
    std::vector<std::string> out;
    for (const ModelConfig& c : configs()) out.push_back(c.name);
    return out;
  }
};

}  // namespace

Status add_fake_models(Server& server) {
  server.registry().add_backend(std::make_shared<TensorBackend>());
  server.registry().add_backend(std::make_shared<WordBackend>());
  server.registry().add_backend(std::make_shared<BatchBackend>());
  server.registry().set_source(std::make_shared<TableSource>());
  for (ModelConfig& c : configs()) TRY(server.registry().load({std::move(c), {1}, "", true}));
  server.set_ready();
  return {};
}

}  // namespace ingot::test
