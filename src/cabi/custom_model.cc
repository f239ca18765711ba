#include "cabi/internal/custom_model.h"

#include <algorithm>

#include "base/files.h"
#include "base/json_text.h"
#include "server/complete.h"
#include "server/settings.h"

namespace ingot::cabi {
namespace {

// How long the end of a model waits for request objects that its backend has not released, before it gives up on finalizing.
constexpr std::chrono::seconds kReleaseWait{30};

TRITONSERVER_Message host_policy(const server::InstanceInfo& i) {
  std::string name = i.host_policy;
  if (name.empty())
    name = i.kind == server::InstanceGroup::Kind::kGpu ? cat("gpu_", i.device_id) : i.kind == server::InstanceGroup::Kind::kModel ? "model" : "cpu";
  JsonText j;
  j.object().key(name).object().end().end();
  return {j.text};
}

void log_finalize(const char* what, const std::string& name, TRITONSERVER_Error* error) {
  if (error) INGOT_LOG(kError, cat("failed finalizing ", what, " '", name, "': ", take_error(error).message()));
}

const server::InstanceGroup* group_of(const server::ModelConfig& config, const std::string& instance) {
  const std::string group = instance.substr(0, instance.rfind('_'));
  for (const server::InstanceGroup& g : config.instance_group)
    if (g.name == group) return &g;
  return nullptr;
}

}  // namespace

Answer::~Answer() {
  if (!instance) return;
  if (counts && !reported.load() && ended.load()) {
    const uint64_t now = server::steady_ns();
    server::ModelStats* stats = instance->stats();
    if (stats && failed.load()) stats->failure(server::FailureReason::kBackend, sink->times(), now);
    else if (stats) stats->success(sink->times(), batch_size, now);
  }
  sink.reset();
  instance->ended();
}

Result<std::shared_ptr<CustomBackend>> CustomBackend::open(const std::string& path, const std::string& name, const std::string& directory,
                                                           const server::StringMap& cmdline, bool keep) {
  std::shared_ptr<CustomBackend> b(new CustomBackend);
  b->library_ = TRY(Library::open(path));
  b->entries_ = TRY(backend_entries(*b->library_));
  JsonText j;
  j.object().key("cmdline").object();
  for (const auto& [key, value] : cmdline) j.key(key).string(value);
  j.end().end();
  TRITONBACKEND_Backend& h = b->handle_;
  h.name = name;
  h.directory = directory;
  h.config.text = j.text;
  if (b->entries_.initialize) {
    h.initializing = true;
    TRITONSERVER_Error* error = b->entries_.initialize(&h);
    h.initializing = false;
    // The destructor finalizes a backend that did not get ready too: it may hold memory.
    if (error) return take_error(error);
  }
  if (keep) b->library_->keep();
  if (b->entries_.attribute)
    if (TRITONSERVER_Error* error = b->entries_.attribute(&h, &h.attributes)) TRITONSERVER_ErrorDelete(error);
  INGOT_LOG(kInfo, cat("loaded backend '", name, "' from ", path));
  return b;
}

CustomBackend::~CustomBackend() {
  if (library_ && entries_.finalize) log_finalize("backend", handle_.name, entries_.finalize(&handle_));
}

void CustomBackend::asked_by(const server::ModelConfig& config) {
  std::lock_guard lock(mutex_);
  if (config.instance_group.empty()) without_groups_.insert(config.name);
  else without_groups_.erase(config.name);
}

// The instances of a model: those of its config, or the first usable group that the backend prefers when the config names none.
Result<std::vector<server::InstanceInfo>> CustomBackend::instances(const server::ModelLoad& load) const {
  using Kind = server::InstanceGroup::Kind;
  {
    std::lock_guard lock(mutex_);
    if (without_groups_.count(load.config.name) == 0) return load.instances;
  }
  for (const server::InstanceGroup& p : handle_.attributes.preferred) {
    if (p.kind == Kind::kGpu) continue;  // the core knows of no GPU that is free for libraries
    load.config.instance_group = {p};
    TRY(server::complete_config(load.config, load.server.options().gpus, false));
    return server::instances_of(load.config);
  }
  return load.instances;
}

Result<std::shared_ptr<server::Model>> CustomBackend::load(const server::ModelLoad& load) { return CustomModel::load(shared_from_this(), load); }

DeviceThread::DeviceThread() {
  thread_ = std::thread([this] {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stop_ || task_; });
      if (!task_) return;
      (*task_)();
      task_ = nullptr;
      changed_.notify_all();
    }
  });
}

DeviceThread::~DeviceThread() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void DeviceThread::run(const std::function<void()>& f) {
  std::lock_guard one(callers_);
  std::unique_lock lock(mutex_);
  task_ = &f;
  changed_.notify_all();
  changed_.wait(lock, [&] { return task_ == nullptr; });
}

Result<std::shared_ptr<LiveModel>> LiveModel::create(std::shared_ptr<CustomBackend> backend, const server::ModelLoad& load) {
  std::shared_ptr<LiveModel> m(new LiveModel(std::move(backend)));
  TRITONBACKEND_Model& h = *m->handle_;
  h.owner = m.get();
  h.backend = &m->backend_->handle();
  h.name = load.config.name;
  h.directory = load.directory;
  h.version = static_cast<uint64_t>(load.version);
  h.config = load.config;
  h.auto_complete = load.auto_complete;
  h.server.server = &load.server;
  m->report_execution_ = load.report_execution ? load.report_execution : [](uint64_t, const server::CallTimes&) {};
  m->began_ = true;
  if (const auto entry = m->backend_->entries().model_initialize) {
    h.initializing = true;
    TRITONSERVER_Error* error = entry(&h);
    h.initializing = false;
    if (error) return take_error(error);
  }
  m->strategy_ = TRY(CustomStrategy::find(h, load.version_directory));
  return m;
}

LiveModel::~LiveModel() {
  if (left_) {  // what the library may still touch must stay: the objects and the library itself
    (void)strategy_.release();
    (void)handle_.release();
    new std::shared_ptr<CustomBackend>(backend_);
    return;
  }
  strategy_.reset();
  devices_.clear();
  if (const auto entry = backend_->entries().model_finalize; began_ && entry) log_finalize("model", handle_->name, entry(handle_.get()));
}

DeviceThread* LiveModel::device(const server::InstanceInfo& info) {
  if (backend_->handle().policy != TRITONBACKEND_EXECUTION_DEVICE_BLOCKING || handle_->config.sequence_batching ||
      info.kind != server::InstanceGroup::Kind::kGpu || info.passive)
    return nullptr;
  auto& d = devices_[info.device_id];
  if (!d) d = std::make_unique<DeviceThread>();
  return d.get();
}

void LiveModel::set_groups(const std::vector<server::InstanceGroup>& groups) {
  std::lock_guard lock(handle_->mutex);
  handle_->config.instance_group = groups;
}

LiveInstance::LiveInstance(std::shared_ptr<LiveModel> model, const server::InstanceInfo& info) : model_(std::move(model)), device_(model_->device(info)) {
  handle_->model = &model_->handle();
  handle_->info = info;
  handle_->host_policy = host_policy(info);
  if (const server::InstanceGroup* g = group_of(handle_->model->config, info.name))
    for (const auto& d : g->secondary_devices) handle_->secondary.push_back(d.device_id);
}

Status LiveInstance::initialize() {
  began_initialize_ = true;
  if (const auto entry = model_->backend().entries().instance_initialize)
    if (TRITONSERVER_Error* error = entry(handle_.get())) return take_error(error);
  return {};
}

LiveInstance::~LiveInstance() {
  {
    std::unique_lock lock(mutex_);
    if (!idle_.wait_for(lock, kReleaseWait, [&] { return answers_ == 0; })) {
      INGOT_LOG(kError, cat("backend '", model_->backend().name(), "' holds ", answers_, " requests, responses or factories of model '", handle_->model->name,
                            "' ", kReleaseWait.count(), " s after the last answer: the model is left in memory, not finalized"));
      model_->leave();
      (void)handle_.release();
      return;
    }
  }
  if (const auto entry = model_->backend().entries().instance_finalize; began_initialize_ && entry)
    log_finalize("model instance", handle_->info.name, entry(handle_.get()));
}

void LiveInstance::began() {
  std::lock_guard lock(mutex_);
  ++answers_;
}

void LiveInstance::ended() {
  std::lock_guard lock(mutex_);
  if (--answers_ == 0) idle_.notify_all();
}

void LiveInstance::execute(std::span<server::Invocation> batch) {
  if (device_) device_->run([&] { run(batch); });
  else run(batch);
}

void LiveInstance::run(std::span<server::Invocation> batch) {
  std::vector<TRITONBACKEND_Request*> requests;
  requests.reserve(batch.size());
  for (const server::Invocation& i : batch) {
    i.sink->statistics_by_backend();
    // A warm-up and the filling of an empty sequence slot come from nobody: their sinks know no start.
    requests.push_back(make_request(this, i, i.sink->times().request_start != 0).release());
  }
  TRITONSERVER_Error* error = model_->backend().entries().execute(handle_.get(), requests.data(), static_cast<uint32_t>(requests.size()));
  if (!error) return;  // the backend owns the requests, maybe not any more
  const Error e = take_error(error);
  for (TRITONBACKEND_Request* r : requests) {
    const std::unique_ptr<TRITONBACKEND_Request> owned(r);
    r->answer->failed = true;
    r->answer->ended = true;
    r->answer->sink->fail(e);
  }
}

Result<std::shared_ptr<server::Model>> CustomModel::load(std::shared_ptr<CustomBackend> backend, const server::ModelLoad& load) {
  const std::vector<server::InstanceInfo> wanted = TRY(backend->instances(load));
  std::shared_ptr<CustomModel> m(new CustomModel(TRY(LiveModel::create(std::move(backend), load))));
  TRY(m->take_instances(wanted, {}));
  load.config = m->live_->handle().config;
  return std::shared_ptr<server::Model>(m);
}

Result<std::shared_ptr<server::Model>> CustomModel::with_instances(const server::ModelLoad& load) {
  const std::vector<server::InstanceInfo> wanted = TRY(live_->backend().instances(load));
  std::shared_ptr<CustomModel> m(new CustomModel(live_));
  const std::vector<server::InstanceGroup> before = live_->handle().config.instance_group;
  live_->set_groups(load.config.instance_group);  // new instances may ask
  if (Status s = m->take_instances(wanted, instances_); !s.ok()) {
    live_->set_groups(before);
    return s.error();
  }
  return std::shared_ptr<server::Model>(m);
}

Status CustomModel::take_instances(const std::vector<server::InstanceInfo>& wanted, std::vector<std::shared_ptr<LiveInstance>> shared) {
  const auto same_place = [](const server::InstanceInfo& a, const server::InstanceInfo& b) {
    return a.kind == b.kind && a.device_id == b.device_id && a.passive == b.passive && a.host_policy == b.host_policy && a.profile == b.profile;
  };
  instances_.resize(wanted.size());
  for (const bool same_name : {true, false}) {
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (instances_[i]) continue;
      const auto it = std::find_if(shared.begin(), shared.end(), [&](const auto& s) { return same_place(s->info(), wanted[i]) && (!same_name || s->info().name == wanted[i].name); });
      if (it == shared.end()) continue;
      taken_over_.insert(it->get());
      instances_[i] = std::move(*it);
      shared.erase(it);
    }
  }
  std::vector<LiveInstance*> fresh;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!instances_[i]) {
      instances_[i] = std::make_shared<LiveInstance>(live_, wanted[i]);
      fresh.push_back(instances_[i].get());
    }
    if (!wanted[i].passive) active_.push_back(instances_[i].get());
  }
  TRY(initialize(fresh));
  if (active_.empty()) return Error(Code::kInvalidArgument, cat("model '", live_->handle().name, "' has passive instances only, want one that executes"));
  return {};
}

Status CustomModel::initialize(const std::vector<LiveInstance*>& fresh) {
  if (!live_->backend().handle().attributes.parallel_loading) {
    for (LiveInstance* i : fresh) TRY(i->initialize());
    return {};
  }
  std::vector<Status> results(fresh.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < fresh.size(); ++i) threads.emplace_back([&, i] { results[i] = fresh[i]->initialize(); });
  for (std::thread& t : threads) t.join();
  for (const Status& s : results) TRY(Status(s));
  return {};
}

Status CustomModel::ready() const {
  const auto entry = live_->backend().entries().ready;
  if (!entry) return {};
  for (LiveInstance* i : active_)
    if (TRITONSERVER_Error* error = entry(&i->handle())) return take_error(error);
  return {};
}

std::vector<server::MemoryUse> CustomModel::memory_use() const {
  MemoryReport sum;
  const auto add = [&](std::mutex& mutex, const MemoryReport& report) {
    std::lock_guard lock(mutex);
    for (const auto& [place, bytes] : report.bytes) sum.bytes[place] += bytes;
  };
  add(live_->handle().mutex, live_->handle().memory);
  for (const auto& i : instances_) add(i->handle().mutex, i->handle().memory);
  std::vector<server::MemoryUse> out;
  for (const auto& [place, bytes] : sum.bytes) out.push_back({place.first, place.second, bytes});
  return out;
}

std::unique_ptr<TRITONBACKEND_Request> make_request(LiveInstance* instance, const server::Invocation& invocation, bool counts) {
  auto r = std::make_unique<TRITONBACKEND_Request>();
  r->answer = std::make_shared<Answer>();
  r->answer->instance = instance;
  r->answer->sink = invocation.sink;
  r->answer->counts = counts;
  r->answer->decoupled = instance->config().is_decoupled();
  instance->began();
  r->request = invocation.request;
  const server::ModelConfig& config = instance->config();
  if (config.max_batch_size > 0 && !r->request->inputs.empty() && !r->request->inputs[0].shape.empty())
    r->answer->batch_size = static_cast<uint64_t>(r->request->inputs[0].shape[0]);
  r->inputs.reserve(r->request->inputs.size());
  for (const server::Tensor& t : r->request->inputs) {
    r->inputs.push_back({&t, {}});
    r->inputs.back().attributes.size = t.data.size();
  }
  if (r->request->outputs.empty())
    for (const server::ModelOutput& o : config.output) r->outputs.push_back(o.name);
  else
    for (const server::RequestedOutput& o : r->request->outputs) r->outputs.push_back(o.name);
  std::sort(r->outputs.begin(), r->outputs.end());
  return r;
}

// ---- batching strategies ----

Result<std::unique_ptr<CustomStrategy>> CustomStrategy::find(TRITONBACKEND_Model& model, const std::string& version_directory) {
  const std::string* given = model.config.find_parameter("TRITON_BATCH_STRATEGY_PATH");
  if (model.config.sequence_batching) {
    if (given)
      return Error(Code::kInvalidArgument, cat("TRITON_BATCH_STRATEGY_PATH cannot be specified with sequence batcher, using it with model '", model.name, "'"));
    return std::unique_ptr<CustomStrategy>();
  }
  std::string path;
  if (given) {
    path = given->starts_with("/") ? *given : join_path(model.directory, *given);
    if (given->find("..") != std::string::npos || !path.starts_with(model.directory + "/"))
      return Error(Code::kInvalidArgument, cat("batching library path not in model directory of model '", model.name, "': ", path));
    if (!file_exists(path)) return Error(Code::kNotFound, cat("Batching library path not found: ", path));
  } else {
    for (const std::string& directory : {version_directory, model.directory, model.backend->directory}) {
      path = join_path(directory, "batchstrategy.so");
      if (!directory.empty() && file_exists(path)) break;
      path.clear();
    }
    if (path.empty()) return std::unique_ptr<CustomStrategy>();
  }
  if (!model.config.dynamic_batching) return std::unique_ptr<CustomStrategy>();  // only the dynamic batcher asks it
  std::unique_ptr<Library> library = TRY(Library::open(path));
  const BatcherEntries entries = batcher_entries(*library);
  if (entries.none()) return std::unique_ptr<CustomStrategy>();
  if (!entries.all())
    return Error(Code::kInvalidArgument, cat("batching library ", path, " has some but not all of the functions that a batching strategy needs"));
  std::unique_ptr<CustomStrategy> s(new CustomStrategy(std::move(library), entries));
  if (TRITONSERVER_Error* error = entries.initialize(&s->batcher_, &model)) return take_error(error);
  return s;
}

CustomStrategy::~CustomStrategy() { log_finalize("batching strategy", library_->path(), entries_.finalize(batcher_)); }

void* CustomStrategy::begin() {
  void* batch = nullptr;
  if (TRITONSERVER_Error* error = entries_.batch_initialize(batcher_, &batch))
    INGOT_LOG(kError, cat("the batching strategy failed to begin a batch: ", take_error(error).message()));
  return batch;
}

bool CustomStrategy::include(void* batch, const server::Invocation& next) {
  // An object that lives for this question; it answers nothing.
  TRITONBACKEND_Request r;
  r.answer = std::make_shared<Answer>();
  r.answer->sink = next.sink;
  r.request = next.request;
  for (const server::Tensor& t : r.request->inputs) {
    r.inputs.push_back({&t, {}});
    r.inputs.back().attributes.size = t.data.size();
  }
  for (const server::RequestedOutput& o : r.request->outputs) r.outputs.push_back(o.name);
  bool yes = false;
  if (TRITONSERVER_Error* error = entries_.include(&r, batch, &yes))
    INGOT_LOG(kError, cat("the batching strategy failed on a request: ", take_error(error).message()));
  return yes;
}

void CustomStrategy::end(void* batch) {
  if (!batch) return;
  if (TRITONSERVER_Error* error = entries_.batch_finalize(batch))
    INGOT_LOG(kError, cat("the batching strategy failed to end a batch: ", take_error(error).message()));
}

}  // namespace ingot::cabi
