#include "repository/repository.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/files.h"
#include "repository/agents.h"
#include "server/settings.h"

namespace ingot::repository {
namespace {

constexpr size_t kMostConfigBytes = size_t{16} << 20;
constexpr int kMostFingerprintDepth = 8;
constexpr const char* kTwice = "model appears in two or more repositories";

uint64_t mix(uint64_t h, std::string_view s) {  // FNV-1a
  for (char c : s) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return h;
}

uint64_t mix_tree(uint64_t h, const std::string& path, int depth) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return mix(h, "gone");
  h = mix(h, cat(base_name(path), "|", static_cast<int64_t>(st.st_mode)));
  if (!S_ISDIR(st.st_mode)) return mix(h, cat(st.st_size, "|", st.st_mtim.tv_sec, "|", st.st_mtim.tv_nsec, "|", st.st_ino));
  if (depth == 0) return h;
  if (auto names = list_directory(path); names.ok())
    for (const std::string& name : *names)
      if (name != "__pycache__") h = mix_tree(h, join_path(path, name), depth - 1);  // a model's own traces
  return h;
}

std::optional<int64_t> version_number(const std::string& name) {
  int64_t v = 0;
  auto [end, code] = std::from_chars(name.data(), name.data() + name.size(), v);
  if (code != std::errc() || end != name.data() + name.size() || v <= 0 || name[0] == '0') return std::nullopt;
  return v;
}

bool bad_name(const std::string& name) { return name.empty() || name[0] == '.' || name.find('/') != std::string::npos; }

// Files that tell the backend of a model.
constexpr struct {
  const char *file, *backend, *platform;
} kFiles[] = {{"model.py", "python", ""}, {"model.onnx", "onnxruntime", "onnxruntime_onnx"}, {"model.xml", "openvino", ""}};

// A model without a config: what its files and its name tell. Others say their backend's name in the folder's.
Result<ParsedConfig> guess(const std::string& name, const std::string& directory) {
  ParsedConfig p;
  p.config.name = name;
  for (int64_t version : version_folders(directory)) {
    const std::string v = join_path(directory, cat(version));
    if (file_exists(join_path(v, "rank0.engine")) || file_exists(join_path(v, "config.json"))) {
      p.config.backend = "ingot";
      return p;
    }
    for (const auto& [file, backend, platform] : kFiles) {
      if (!file_exists(join_path(v, file))) continue;
      p.config.backend = backend;
      p.config.platform = platform;
      p.config.default_model_filename = file;
      return p;
    }
  }
  if (const size_t dot = name.rfind('.'); dot != std::string::npos && dot + 1 < name.size()) {
    p.config.backend = name.substr(dot + 1);
    return p;
  }
  return Error(Code::kInvalidArgument, cat("Invalid model name: Could not determine backend for model '", name,
                                           "' with no backend in model configuration. Expected model name of the form 'model.<backend_name>'."));
}

// What a config leaves out of its backend, and that of an ensemble.
Status find_backend(server::ModelConfig& c, const std::string& directory, bool auto_complete) {
  if (c.ensemble_scheduling && ((!c.platform.empty() && c.platform != "ensemble") || (!c.backend.empty() && c.backend != "ensemble")))
    return Error(Code::kInvalidArgument, cat("ensemble scheduling cannot be set for model '", c.name, "' whose platform is not ensemble"));
  if (c.backend.empty() && c.platform == "onnxruntime_onnx") c.backend = "onnxruntime";
  if (c.backend.empty() && c.platform.empty()) {
    if (c.ensemble_scheduling) c.platform = "ensemble";
    else c.backend = TRY(guess(c.name, directory)).config.backend;
  }
  if (!auto_complete || !c.default_model_filename.empty()) return {};
  for (int64_t version : version_folders(directory))
    for (const auto& [file, backend, platform] : kFiles)
      if (c.backend == backend && file_exists(join_path(join_path(directory, cat(version)), file))) c.default_model_filename = file;
  return {};
}

}  // namespace

std::vector<int64_t> version_folders(const std::string& directory) {
  std::vector<int64_t> out;
  if (auto names = list_directory(directory); names.ok())
    for (const std::string& name : *names)
      if (const auto v = version_number(name); v && is_directory(join_path(directory, name))) out.push_back(*v);
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<int64_t> choose_versions(const std::optional<server::VersionPolicy>& policy, const std::vector<int64_t>& all) {
  const server::VersionPolicy p = policy.value_or(server::VersionPolicy());
  using Kind = server::VersionPolicy::Kind;
  if (p.kind == Kind::kAll) return all;
  std::vector<int64_t> out;
  if (p.kind == Kind::kSpecific) {
    for (int64_t v : all)
      if (std::find(p.versions.begin(), p.versions.end(), v) != p.versions.end()) out.push_back(v);
    return out;
  }
  const size_t n = std::min<size_t>(all.size(), p.num_versions);
  return {all.end() - static_cast<std::ptrdiff_t>(n), all.end()};
}

Result<std::shared_ptr<Repository>> Repository::open(RepositoryOptions options) {
  if (options.directories.empty()) return Error(Code::kInvalidArgument, "--model-repository: want at least one directory");
  std::vector<std::string> once;  // one named twice is one
  for (const std::string& d : options.directories)
    if (std::find(once.begin(), once.end(), d) == once.end()) once.push_back(d);
  options.directories = std::move(once);
  for (const std::string& d : options.directories) {
    for (const char* scheme : {"s3://", "gs://", "as://"})
      if (d.starts_with(scheme)) return Error(Code::kUnsupported, cat("--model-repository ", d, ": only local directories are served; mount or copy the bucket"));
    if (!is_directory(d)) return Error(Code::kInvalidArgument, cat("--model-repository ", d, ": found no such directory"));
  }
  return std::shared_ptr<Repository>(new Repository(std::move(options)));
}

Repository::~Repository() {
  std::error_code ignored;
  for (const auto& [name, directory] : unpacked_) std::filesystem::remove_all(directory, ignored);
}

std::string Repository::config_path(const std::string& directory) const {
  if (!options_.config_name.empty()) {
    const std::string named = join_path(join_path(directory, "configs"), options_.config_name + ".pbtxt");
    if (file_exists(named)) return named;
  }
  return join_path(directory, "config.pbtxt");
}

bool Repository::is_model(const std::string& directory) const {
  return is_directory(directory) && (file_exists(config_path(directory)) || !version_folders(directory).empty());
}

std::vector<std::string> Repository::names() {
  std::set<std::string> found;
  for (const std::string& d : options_.directories) {
    auto entries = list_directory(d);
    if (!entries.ok()) {
      INGOT_LOG(kError, cat("cannot read the model repository: ", entries.error().message()));
      continue;
    }
    for (const std::string& name : *entries) {
      if (name[0] == '.') continue;
      if (is_model(join_path(d, name))) {
        found.insert(options_.namespacing ? join_path(d, name) : name);
        continue;
      }
      std::lock_guard lock(mutex_);
      if (strays_.insert(join_path(d, name)).second)
        INGOT_LOG(kWarning, cat(join_path(d, name), " is ignored: want a folder with config.pbtxt or version folders"));
    }
  }
  return {found.begin(), found.end()};
}

namespace {

// Folders that look like versions and are none; those with a meaning of their own are no mistake.
void name_ignored_versions(const std::string& directory) {
  const Result<std::vector<std::string>> names = list_directory(directory);
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    if (version_number(name) || name[0] == '.' || name[0] == '_' || !is_directory(join_path(directory, name))) continue;
    if (name == "configs" || name == "warmup" || name == "initial_state") continue;
    const bool digits = name.find_first_not_of("0123456789") == std::string::npos;
    INGOT_LOG(kWarning, cat("ignore version directory '", name, "' which ",
                            digits ? "contains leading zeros in its directory name" : "fails to convert to integral number"));
  }
}

}  // namespace

std::string Repository::obstacle(const std::string& name) {
  auto d = directory_of(name);
  return !d.ok() && d.error().message().starts_with(kTwice) ? kTwice : "";
}

Result<std::string> Repository::directory_of(const std::string& name) const {
  for (const std::string& d : options_.directories)
    if (options_.namespacing && join_path(d, base_name(name)) == name && is_model(name)) return name;
  if (bad_name(name)) return Error(Code::kInvalidArgument, cat("'", name, "' is no name of a model folder"));
  std::string found;
  for (const std::string& d : options_.directories) {
    const std::string path = join_path(d, name);
    if (!is_model(path)) continue;
    if (!found.empty()) return Error(Code::kInvalidArgument, cat(kTwice, ": ", found, " and ", path));
    found = path;
  }
  if (found.empty()) return Error(Code::kNotFound, cat("no repository has a model '", name, "'"));
  return found;
}

Result<Repository::Described> Repository::read(const std::string& given) const {
  Described out;
  out.directory = TRY(directory_of(given));
  const std::string name = base_name(out.directory);
  const std::string path = config_path(out.directory);
  if (!file_exists(path)) {
    if (!options_.auto_complete)
      return Error(Code::kInvalidArgument, cat("failed to open text file for read ", path, ": No such file or directory (config.pbtxt is necessary with "
                                               "--disable-auto-complete-config)"));
    out.parsed = TRY(guess(name, out.directory));
    return out;
  }
  out.parsed = TRY(parse_config_text(TRY(read_file(path, kMostConfigBytes)), path));
  server::ModelConfig& c = out.parsed.config;
  if (c.name.empty()) c.name = name;
  if (c.name != name)
    return Error(Code::kInvalidArgument, cat("unexpected directory name '", name, "' for model '", c.name, "', directory name must equal model name (", path, ")"));
  // The LLM template's default; scripts older than the placeholder do not fill it.
  if (std::any_of(out.parsed.unset.begin(), out.parsed.unset.end(), [](const Unset& u) { return u.path == "backend" && u.placeholder == "${triton_backend}"; }) &&
      c.backend.empty() && c.platform.empty() && !c.ensemble_scheduling)
    c.backend = "tensorrtllm";
  TRY(find_backend(c, out.directory, options_.auto_complete));
  return out;
}

std::string Repository::name_beside(const std::string& name_space, const std::string& name) const {
  if (!options_.namespacing || name_space.empty() || bad_name(name)) return name;
  std::string exact = join_path(name_space, name);
  return is_model(exact) ? exact : name;
}

std::map<std::string, server::ModelConfig> Repository::configs(const std::string& name_space) {
  std::map<std::string, server::ModelConfig> out;
  for (const std::string& name : names())
    if (options_.namespacing && parent_directory(name) != name_space) continue;
    else if (auto d = read(name); d.ok()) out.emplace(base_name(name), std::move(d->parsed.config));
  return out;
}

// Files of a load request, in a folder of their own: the version folders that they name are the model's.
Result<std::string> Repository::unpack(const std::string& name, const server::LoadParameters& parameters) {
  std::error_code code;
  std::string pattern = (std::filesystem::temp_directory_path(code) / "ingot-model-XXXXXX").string();
  if (code || !::mkdtemp(pattern.data())) return Error(Code::kInternal, cat("cannot make a temporary folder for the files of model '", name, "'"));
  const std::string root = pattern;
  for (const auto& [name_given, bytes] : parameters.files) {
    const std::string file = name_given.substr(std::min(name_given.find_first_not_of('/'), name_given.size()));  // old clients write file:/1/model.py
    const std::filesystem::path relative(file);
    bool inside = !relative.empty() && relative.is_relative();
    for (const auto& part : relative) inside &= part != ".." && !part.empty();
    if (!inside || !version_number(relative.begin()->string())) {
      std::filesystem::remove_all(root, code);
      return Error(Code::kInvalidArgument, cat("failed to poll from model repository: file:", file, " of the load request for '", name, "': want file:<version>/<path> without '..'"));
    }
    const std::string path = join_path(root, file);
    Status written = make_directories(parent_directory(path));
    if (written.ok()) written = write_file(path, bytes);
    if (!written.ok()) {
      std::filesystem::remove_all(root, code);
      return written.error();
    }
  }
  return root;
}

namespace {

// Their names, each once, in the order of the file.
std::string placeholders(const std::vector<Unset>& unset) {
  std::vector<std::string> seen;
  std::string out;
  for (const Unset& u : unset) {
    const std::string inner = u.placeholder.starts_with("${") && u.placeholder.ends_with("}") ? u.placeholder.substr(2, u.placeholder.size() - 3) : u.placeholder;
    if (std::find(seen.begin(), seen.end(), inner) != seen.end()) continue;
    seen.push_back(inner);
    out += cat(out.empty() ? "" : ", ", inner);
  }
  return out;
}

}  // namespace

Result<server::ModelSpec> Repository::describe(const std::string& given, const server::LoadParameters& parameters) {
  const std::string name = options_.namespacing ? base_name(given) : given;
  if (bad_name(name)) return Error(Code::kInvalidArgument, cat("'", name, "' is no name of a model folder"));
  std::string name_space;
  if (options_.namespacing) {
    Result<std::string> home = directory_of(given);
    if (!home.ok() && home.error().code() != Code::kNotFound) return home.error();
    name_space = home.ok() ? parent_directory(*home) : options_.directories[0];
  }
  Described d;
  if (!parameters.files.empty()) {
    d.directory = TRY(unpack(name, parameters));
    std::lock_guard lock(mutex_);
    std::string& kept = unpacked_[given];
    std::error_code ignored;
    if (!kept.empty()) std::filesystem::remove_all(kept, ignored);
    kept = d.directory;
  } else {
    d.directory = TRY(directory_of(given));
  }
  if (!parameters.config_json.empty()) {
    d.parsed = TRY(parse_config_json(parameters.config_json, cat("config of the load request for '", name, "'")));
    if (d.parsed.config.name.empty()) d.parsed.config.name = name;
    if (d.parsed.config.name != name)
      return Error(Code::kInvalidArgument, cat("the config of the load request names the model '", d.parsed.config.name, "', want '", name, "'"));
    TRY(find_backend(d.parsed.config, d.directory, options_.auto_complete));
  } else {
    d = TRY(read(given));
  }
  if (parameters.agents) TRY(run_agents(d.parsed.config, d.directory));
  if (std::string left = placeholders(d.parsed.unset); !left.empty())
    INGOT_LOG(kWarning, cat("model '", name, "': left at their placeholders, so their defaults count: ", left));
  server::ModelSpec spec{.config = d.parsed.config, .versions = {}, .directory = d.directory, .auto_complete = options_.auto_complete, .name_space = name_space};
  if (options_.adapt) {
    std::map<std::string, server::ModelConfig> all = configs(name_space);
    all.insert_or_assign(name, d.parsed.config);
    TRY(options_.adapt(spec, d.parsed, all));
  }
  name_ignored_versions(d.directory);
  spec.versions = choose_versions(spec.config.version_policy, version_folders(d.directory));
  spec.files = 0xcbf29ce484222325;
  if (auto entries = list_directory(d.directory); entries.ok())
    for (const std::string& entry : *entries)
      if (entry != "config.pbtxt" && entry != "configs") spec.files = mix_tree(spec.files, join_path(d.directory, entry), kMostFingerprintDepth);
  return spec;
}

uint64_t Repository::fingerprint(const std::string& name) const {
  auto d = directory_of(name);
  if (!d.ok()) return 0;
  return mix_tree(0xcbf29ce484222325, *d, kMostFingerprintDepth) | 1;
}

}  // namespace ingot::repository
