// /v2: server and model metadata, health, configuration, statistics, repository control, trace and log settings, shared memory.
#include <charconv>

#include "base/json_text.h"
#include "frontends/api.h"
#include "frontends/base64.h"
#include "frontends/request_json.h"

namespace ingot::frontends {
namespace {

using server::ModelConfig;

const HttpResponse kNotFound = json_response(404, R"({"error":"Not Found"})");
const HttpResponse kMethodNotAllowed = json_response(405, R"({"error":"Method Not Allowed"})");

Error bad(std::string message) { return Error(Code::kInvalidArgument, std::move(message)); }

// An empty body counts as an empty object.
Result<Json> body_object(const Exchange& e) {
  if (trim(e.request().body).empty()) return Json::object();
  Json j = TRY(parse_request_json(e.request().body, 100));
  if (!j.is_object()) return bad(cat("request body: found ", json_type(j), ", want an object"));
  return j;
}

void send_status(Exchange& e, const Status& s) {
  if (s.ok()) e.respond(json_response(200, ""));
  else send_error(e, s.error());
}

void server_metadata(ApiContext& api, Exchange& e) {
  JsonText j;
  j.object().key("name").string(api.server.options().id).key("version").string(api.server.version()).key("extensions").array();
  for (const std::string& x : server::Server::extensions()) j.string(x);
  j.end().end();
  send_json(e, std::move(j.text));
}

void health(ApiContext& api, const ExchangePtr& e, bool live) {
  if (api.server.state() == server::ServerState::kExiting) {
    send_error(*e, Error(Code::kUnavailable, "Server exiting"));
    return;
  }
  if (live) return e->respond({api.server.live() ? 200 : 400, "", {}, ""});
  ask_readiness(api, "", [&api, e] { e->respond({api.server.ready() ? 200 : 400, "", {}, ""}); });
}

void model_ready(ApiContext& api, const ExchangePtr& e, const std::string& name, int64_t version) {
  ask_readiness(api, name, [&api, e, name, version] {
    Result<bool> ready = api.server.registry().ready(name, version);
    if (!ready.ok()) send_error(*e, ready.error());
    else if (ready.value()) e->respond({200, "", {}, ""});
    else send_error(*e, bad("Model version not ready"));
  });
}

template <class Tensors>
void write_tensors(JsonText& j, const char* key, const Tensors& tensors, bool batched) {
  j.key(key).array();
  for (const auto& t : tensors) {
    j.object().key("name").string(t.name).key("datatype").string(server::protocol_name(t.data_type)).key("shape").array();
    if (batched) j.integer(-1);
    for (int64_t d : t.dims) j.integer(d);
    j.end().end();
  }
  j.end();
}

Status model_metadata(ApiContext& api, Exchange& e, const std::string& name, int64_t version) {
  std::shared_ptr<server::LoadedModel> m = TRY(api.server.registry().find(name, version));
  const ModelConfig& c = m->config;
  JsonText j;
  j.object().key("name").string(name).key("versions").array();
  if (version == -1)
    for (int64_t v : api.server.registry().ready_versions(name)) j.string(cat(v));
  else
    j.string(cat(version));
  j.end().key("platform").string(c.platform.empty() ? c.backend : c.platform);
  write_tensors(j, "inputs", c.input, c.max_batch_size > 0);
  write_tensors(j, "outputs", c.output, c.max_batch_size > 0);
  j.end();
  send_json(e, std::move(j.text));
  return {};
}

Status model_config(ApiContext& api, Exchange& e, const std::string& name, int64_t version) {
  std::shared_ptr<server::LoadedModel> m = TRY(api.server.registry().find(name, version));
  send_json(e, server::to_json(m->config));
  return {};
}

Status model_stats(ApiContext& api, Exchange& e, const std::string& name, int64_t version) {
  if (!name.empty()) TRY(api.server.registry().find(name, version));
  std::string out = R"({"model_stats":[)";
  bool first = true;
  for (const auto& m : api.server.registry().loaded(name)) {
    if (version != -1 && m->version != version) continue;
    server::StatsSnapshot s = m->stats->snapshot();
    s.memory = m->model->memory_use();
    if (!first) out += ',';
    first = false;
    out += server::to_json(s);
  }
  send_json(e, out + "]}");
  return {};
}

// What the page and clients want to know of a model beyond Triton's routes: its template, limits, kind.
Status model_attributes(ApiContext& api, Exchange& e, const std::string& name, int64_t version) {
  std::shared_ptr<server::LoadedModel> m = TRY(api.server.registry().find(name, version));
  JsonText j;
  j.object().key("name").string(name).key("version").string(cat(m->version));
  for (const char* key : {"kind", "chat_template", "max_model_length"}) j.key(key).string(m->model->attribute(key));
  j.end();
  send_json(e, std::move(j.text));
  return {};
}

std::string trace_json(const server::TraceSettings& s) {
  JsonText j;
  j.object().key("trace_level").array();
  for (const std::string& l : s.level) j.string(l);
  j.end();
  for (const auto& [key, value] : s.shown()) j.key(key).string(value);
  j.end();
  return std::move(j.text);
}

Result<std::optional<std::string>> trace_value(const Json& v, const std::string& key) {
  if (v.is_null()) return std::optional<std::string>();
  if (v.is_string()) return std::optional<std::string>(v.get<std::string>());
  if (v.is_number_integer()) return std::optional<std::string>(dump_json(v));
  return bad(cat("Unable to parse '", key, "': found ", json_type(v), ", want a string"));
}

Status trace_setting(ApiContext& api, Exchange& e, const std::string& model) {
  if (!model.empty()) {
    Result<bool> ready = api.server.registry().ready(model, -1);
    if (!ready.ok()) return ready.error();
    if (!ready.value()) return bad(cat("Request for unknown model : ", model));
  }
  if (e.request().method == "GET") {
    send_json(e, trace_json(api.server.traces().get(model)));
    return {};
  }
  const Json body = TRY(body_object(e));
  server::TraceUpdate u;
  for (const auto& [key, value] : body.items()) {
    if (key == "trace_file") return Error(Code::kUnsupported, "trace file location can not be updated through network protocol");
    if (key == "trace_mode") return Error(Code::kUnsupported, "trace mode can not be updated through network protocol");
    if (key == "trace_level") {
      if (value.is_null()) {
        u.level = std::optional<std::vector<std::string>>();
        continue;
      }
      std::vector<std::string> levels;
      if (value.is_string()) levels.push_back(value.get<std::string>());
      else if (!internal::read(value, levels)) return bad(cat("Unable to parse 'trace_level': found ", json_type(value), ", want an array of strings"));
      u.level = std::optional(std::move(levels));
    } else if (key == "trace_rate") {
      u.rate = TRY(trace_value(value, key));
    } else if (key == "trace_count") {
      u.count = TRY(trace_value(value, key));
    } else if (key == "log_frequency") {
      u.log_frequency = TRY(trace_value(value, key));
    } else {
      return bad(cat("Unexpected trace setting '", key, "', the settings are trace_level, trace_rate, trace_count, log_frequency"));
    }
  }
  send_json(e, trace_json(TRY(api.server.traces().update(model, u))));
  return {};
}

Status logging(Exchange& e) {
  server::Log& log = server::Log::get();
  server::LogOptions o = log.options();
  if (e.request().method == "POST") {
    const Json body = TRY(body_object(e));
    for (const auto& [key, value] : body.items()) {
      auto flag = [&](bool& out) -> Status {
        if (!value.is_boolean()) return bad(cat("Unable to parse '", key, "': found ", json_type(value), ", want true or false"));
        out = value.get<bool>();
        return {};
      };
      if (key == "log_file") {
        return Error(Code::kUnsupported, "log file location can not be updated through network protocol");
      } else if (key == "log_info") {
        TRY(flag(o.info));
      } else if (key == "log_warning") {
        TRY(flag(o.warning));
      } else if (key == "log_error") {
        TRY(flag(o.error));
      } else if (key == "log_verbose_level") {
        if (!value.is_number_unsigned() || value.get<uint64_t>() > 1000)
          return bad(cat("Unable to parse 'log_verbose_level': found ", dump_json(value), ", want an integer in 0 .. 1000"));
        o.verbose_level = value.get<uint32_t>();
      } else if (key == "log_format") {
        if (value != "default" && value != "ISO8601")
          return Error(Code::kUnavailable, cat("Unsupported log format ", dump_json(value), ", want default or ISO8601"));
        o.iso8601 = value == "ISO8601";
      } else {
        return bad(cat("Unexpected log setting '", key,
                       "', the settings are log_info, log_warning, log_error, log_verbose_level, log_format"));
      }
    }
    TRY(log.configure(o));
  }
  JsonText j;
  j.object().key("log_file").string(o.file).key("log_info").boolean(o.info).key("log_warning").boolean(o.warning);
  j.key("log_error").boolean(o.error).key("log_verbose_level").integer(o.verbose_level);
  j.key("log_format").string(o.iso8601 ? "ISO8601" : "default").end();
  send_json(e, std::move(j.text));
  return {};
}

Status repository_index(ApiContext& api, Exchange& e) {
  const Json body = TRY(body_object(e));
  bool ready = false;
  if (auto it = body.find("ready"); it != body.end()) {
    if (!it->is_boolean()) return bad(cat("Unable to parse 'ready': found ", json_type(*it), ", want true or false"));
    ready = it->get<bool>();
  }
  JsonText j;
  j.array();
  for (const server::ModelStatus& s : api.server.registry().index(ready)) {
    j.object().key("name").string(s.name);
    if (s.version != -1) j.key("version").string(cat(s.version));
    if (s.state != server::ModelState::kUnknown) j.key("state").string(server::state_name(s.state));
    if (!s.reason.empty()) j.key("reason").string(s.reason);
    j.end();
  }
  j.end();
  send_json(e, std::move(j.text));
  return {};
}

Result<server::LoadParameters> load_parameters(const std::string& model, const Json& body, uint64_t most_bytes) {
  server::LoadParameters p;
  auto it = body.find("parameters");
  if (it == body.end()) return p;
  if (!it->is_object()) return bad(cat("Unable to parse 'parameters': found ", json_type(*it), ", want an object"));
  for (const auto& [key, value] : it->items()) {
    if (!value.is_string()) return bad(cat("Unable to parse parameter '", key, "': found ", json_type(value), ", want a string"));
    const std::string& text = value.get_ref<const std::string&>();
    if (key == "config") {
      p.config_json = text;
    } else if (key.starts_with("file:")) {
      const size_t begin = key.find_first_not_of('/', 5);  // file:/1/model.py is file:1/model.py
      const std::string path = begin == std::string::npos ? "" : key.substr(begin);
      if (path.empty() || ("/" + path + "/").find("/../") != std::string::npos)
        return bad(cat("failed to load '", model, "', failed to poll from model repository: file override '", key, "' leaves the model's directory"));
      if (text.size() / 4 * 3 > most_bytes)
        return bad(cat("file override '", key, "' exceeds the maximum allowed input size of ", most_bytes, " bytes"));
      Result<std::string> bytes = base64_decode(text);
      if (!bytes.ok()) return bad(cat("file override '", key, "': ", bytes.error().message()));
      p.files.emplace_back(path, std::move(bytes).value());
    } else {
      return bad(cat("unrecognized load parameter '", key, "', want config or file:<version>/<path>"));
    }
  }
  return p;
}

Status repository_control(ApiContext& api, const ExchangePtr& e, const std::string& model, bool load) {
  if (!api.server.options().explicit_control)
    return Error(Code::kUnavailable, "explicit model load / unload is not allowed if polling is enabled");
  const Json body = TRY(body_object(*e));
  if (load) {
    server::LoadParameters p = TRY(load_parameters(model, body, api.limits.input_bytes));
    api.slow.post([&api, e, model, p = std::move(p)] { send_status(*e, api.server.registry().load_by_name(model, p)); });
    return {};
  }
  bool dependents = false;
  if (auto it = body.find("parameters"); it != body.end() && it->is_object()) {
    if (auto u = it->find("unload_dependents"); u != it->end()) {
      if (!u->is_boolean()) return bad(cat("Unable to parse 'unload_dependents': found ", json_type(*u), ", want true or false"));
      dependents = u->get<bool>();
    }
  }
  api.slow.post([&api, e, model, dependents] { send_status(*e, api.server.registry().unload(model, dependents)); });
  return {};
}

Status shared_memory(ApiContext& api, Exchange& e, bool cuda, const std::string& region, const std::string& action) {
  server::SharedMemory& shm = api.server.shared_memory();
  if (action == "status") {
    if (cuda) {
      if (!region.empty()) return Error(Code::kNotFound, cat("Unable to find cuda shared memory region: '", region, "'"));
      send_json(e, "[]");
      return {};
    }
    JsonText j;
    j.array();
    for (const server::SharedRegion& r : TRY(shm.status(region)))
      j.object().key("name").string(r.name).key("key").string(r.key).key("offset").integer(r.offset).key("byte_size").integer(r.byte_size).end();
    j.end();
    send_json(e, std::move(j.text));
    return {};
  }
  if (!api.server.options().allow_client_shm)
    return Error(Code::kUnsupported, cat(cuda ? "CUDA" : "System", " shared memory ", action,
                                         " by clients is disabled, start the server with --allow-client-shm=true to enable it"));
  if (cuda)
    return Error(Code::kInvalidArgument, cat("failed to ", action, " CUDA shared memory region: '", region, "', GPUs not supported"));
  if (action == "unregister") {
    TRY(shm.unregister_system(region));
    e.respond(json_response(200, ""));
    return {};
  }
  if (region.empty()) return bad("'region name' is necessary to register system shared memory region");
  const Json body = TRY(body_object(e));
  const std::string key = TRY(get<std::string>(body, "key", "request body"));
  const uint64_t offset = TRY(get_or<uint64_t>(body, "offset", 0, "request body"));
  const uint64_t bytes = TRY(get<uint64_t>(body, "byte_size", "request body"));
  TRY(shm.register_system(region, key, offset, bytes));
  e.respond(json_response(200, ""));
  return {};
}

Result<int64_t> parse_version(const std::string& text) {
  int64_t v = 0;
  auto r = std::from_chars(text.data(), text.data() + text.size(), v);
  if (r.ec != std::errc() || r.ptr != text.data() + text.size() || v < 0)
    return bad(cat("failed to get model version from specified version string '", text,
                   "', an integral value > 0 or -1 is expected"));
  return v;
}

bool all_digits(const std::string& s) {
  return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos;
}

// /v2/models/...
void models(ApiContext& api, const ExchangePtr& e, const Segments& p) {
  const std::string& method = e->request().method;
  const bool get = method == "GET" || method == "HEAD", post = method == "POST";
  if (p.size() < 3 || p[2].empty()) return e->respond(kNotFound);
  if (p.size() == 3 && p[2] == "stats") {
    if (!get) return e->respond(kMethodNotAllowed);
    (void)model_stats(api, *e, "", -1);
    return;
  }
  const std::string& name = p[2];
  size_t at = 3;
  int64_t version = -1;
  if (p.size() > at && p[at] == "versions") {
    if (p.size() < 5 || !all_digits(p[4])) return e->respond(kNotFound);
    Result<int64_t> v = parse_version(p[4]);
    if (!v.ok()) return send_error(*e, v.error());
    version = v.value();
    at = 5;
  }
  const bool versioned = at == 5;
  const std::string action = p.size() == at ? "" : p.size() == at + 1 ? p[at] : p.size() == at + 2 && p[at] == "trace" && p[at + 1] == "setting" ? "trace/setting" : "?";
  Status s;
  if (action.empty() || action == "ready" || action == "config" || action == "stats" || action == "attributes") {
    if (!get) return e->respond(kMethodNotAllowed);
    if (action == "ready") return model_ready(api, e, name, version);
    s = action.empty()         ? model_metadata(api, *e, name, version)
        : action == "config"   ? model_config(api, *e, name, version)
        : action == "stats"    ? model_stats(api, *e, name, version)
                               : model_attributes(api, *e, name, version);
  } else if (action == "trace/setting" && !versioned) {
    if (!get && !post) return e->respond(kMethodNotAllowed);
    s = trace_setting(api, *e, name);
  } else if (action == "infer" || action == "generate" || action == "generate_stream") {
    if (!post) return e->respond(kMethodNotAllowed);
    if (action == "infer") handle_infer(api, e, name, version);
    else handle_generate(api, e, name, version, action == "generate_stream");
    return;
  } else {
    return e->respond(kNotFound);
  }
  if (!s.ok()) send_error(*e, s.error());
}

// /v2/repository[/{repo}]/index and /v2/repository[/{repo}]/models/{m}/load|unload
void repository(ApiContext& api, const ExchangePtr& e, const Segments& p) {
  size_t at = 2;
  const bool named = p.size() > 3 && ((p.size() == 4 && p[3] == "index") || (p.size() == 6 && p[3] == "models"));
  if (named) at = 3;
  const bool index = p.size() == at + 1 && p[at] == "index";
  const bool control = p.size() == at + 3 && p[at] == "models" && (p[at + 2] == "load" || p[at + 2] == "unload");
  if (!index && !control) return e->respond(kNotFound);
  if (e->request().method != "POST") return e->respond(kMethodNotAllowed);
  Status s = named ? Status(Error(Code::kUnsupported, "'repository_name' specification is not supported"))
             : index ? repository_index(api, *e)
                     : repository_control(api, e, p[at + 1], p[at + 2] == "load");
  if (!s.ok()) send_error(*e, s.error());
}

// /v2/{system,cuda}sharedmemory[/region/{r}]/status|register|unregister
void shared_memory_routes(ApiContext& api, const ExchangePtr& e, const Segments& p) {
  const bool with_region = p.size() == 5 && p[2] == "region";
  if (p.size() != 3 && !with_region) return e->respond(kNotFound);
  const std::string& action = p.back();
  if (action != "status" && action != "register" && action != "unregister") return e->respond(kNotFound);
  const bool get = e->request().method == "GET" || e->request().method == "HEAD";
  if (get != (action == "status") || (!get && e->request().method != "POST")) return e->respond(kMethodNotAllowed);
  Status s = shared_memory(api, *e, p[1] == "cudasharedmemory", with_region ? p[3] : "", action);
  if (!s.ok()) send_error(*e, s.error());
}

}  // namespace

void handle_kserve(ApiContext& api, ExchangePtr e, const Segments& p) {
  const std::string& method = e->request().method;
  const bool get = method == "GET" || method == "HEAD", post = method == "POST";
  const std::string_view second = p.size() > 1 ? std::string_view(p[1]) : "";
  if (p.size() == 1) {
    if (!get) return e->respond(kMethodNotAllowed);
    return server_metadata(api, *e);
  }
  if (second == "health" && p.size() == 3 && (p[2] == "live" || p[2] == "ready")) {
    if (!get) return e->respond(kMethodNotAllowed);
    return health(api, e, p[2] == "live");
  }
  if (second == "models") return models(api, e, p);
  if (second == "repository") return repository(api, e, p);
  if (second == "systemsharedmemory" || second == "cudasharedmemory") return shared_memory_routes(api, e, p);
  const bool trace = second == "trace" && p.size() == 3 && p[2] == "setting";
  if (trace || (second == "logging" && p.size() == 2)) {
    if (!get && !post) return e->respond(kMethodNotAllowed);
    Status s = trace ? trace_setting(api, *e, "") : logging(*e);
    if (!s.ok()) send_error(*e, s.error());
    return;
  }
  e->respond(kNotFound);
}

}  // namespace ingot::frontends
