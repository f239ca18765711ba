#include "repository/agents.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/files.h"

namespace ingot::repository {
namespace {

Result<std::string> md5_of(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // of a pipe, it would wait for who writes
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(fd < 0 ? nullptr : ::fdopen(fd, "rb"), std::fclose);
  if (!file) return Error(Code::kNotFound, cat("cannot open ", path));
  struct stat st {};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return Error(Code::kInvalidArgument, cat("cannot read ", path, ": it is not a regular file"));
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> hash(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!hash || EVP_DigestInit_ex(hash.get(), EVP_md5(), nullptr) != 1) return Error(Code::kInternal, "this machine's OpenSSL has no MD5");
  std::string chunk(1 << 16, '\0');
  for (size_t n; (n = std::fread(chunk.data(), 1, chunk.size(), file.get())) > 0;) EVP_DigestUpdate(hash.get(), chunk.data(), n);
  if (std::ferror(file.get())) return Error(Code::kUnavailable, cat("cannot read ", path));
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  EVP_DigestFinal_ex(hash.get(), digest, &bytes);
  std::string out;
  for (unsigned int i = 0; i < bytes; ++i) {
    out += "0123456789abcdef"[digest[i] >> 4];
    out += "0123456789abcdef"[digest[i] & 15];
  }
  return out;
}

Status checksum(const server::RepositoryAgent& agent, const std::string& directory) {
  for (const auto& [key, value] : agent.parameters) {
    if (!key.starts_with("MD5:"))
      return Error(Code::kInvalidArgument, cat("Unsupported hash function in parameter '", key, "' of repository agent 'checksum', want MD5:<file>"));
    const std::string file = key.substr(4);
    const std::filesystem::path relative(file);
    if (relative.empty() || relative.is_absolute() || std::find(relative.begin(), relative.end(), "..") != relative.end())
      return Error(Code::kInvalidArgument, cat("parameter '", key, "' of repository agent 'checksum' names no file in the model's folder"));
    std::string want = value;
    std::transform(want.begin(), want.end(), want.begin(), [](unsigned char c) { return std::tolower(c); });
    const std::string found = TRY(md5_of(join_path(directory, file)));
    if (found != want) return Error(Code::kInvalidArgument, cat("Mismatched MD5 hash for file ", file, ", expect ", value, ", got ", found));
  }
  return {};
}

}  // namespace

Status run_agents(const server::ModelConfig& config, const std::string& directory) {
  if (!config.repository_agents) return {};
  for (const server::RepositoryAgent& agent : *config.repository_agents) {
    Status s = Error(Code::kInvalidArgument, cat("unable to find 'libtritonrepoagent_", agent.name, ".so' for repo agent '", agent.name,
                                                 "': agents as libraries are not served, want 'checksum'"));
    if (agent.name == "checksum") s = checksum(agent, directory);
    if (!s.ok()) return Error(s.error().code(), cat("Poll failed for model directory '", config.name, "': ", s.error().message()));
  }
  return {};
}

}  // namespace ingot::repository
