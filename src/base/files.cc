#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace ingot {
namespace {

Error system_error(std::string_view doing, const std::string& path) {
  const int e = errno;
  const Code code = e == ENOENT ? Code::kNotFound : e == EEXIST ? Code::kAlreadyExists : e == ENOSPC ? Code::kUnavailable : Code::kInvalidArgument;
  return Error(code, cat("cannot ", doing, " ", path, ": ", std::strerror(e)));
}

std::string_view kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR: return "a folder";
    case S_IFIFO: return "a named pipe";
    case S_IFSOCK: return "a socket";
    case S_IFCHR: return "a character device";
    case S_IFBLK: return "a block device";
  }
  return "no regular file";
}

// Never waits: a named pipe in a model's folder would make open() wait for who writes. What a user names below /dev is meant to be read
// (`<(command)` of a shell is a pipe at /dev/fd/63).
Result<int> open_to_read(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno == ENXIO ? Error(Code::kInvalidArgument, cat("cannot open ", path, ": it is a socket, want a regular file")) : system_error("open", path);
  struct stat st {};
  Status wrong;
  if (::fstat(fd, &st) != 0) wrong = system_error("open", path);
  else if (!S_ISREG(st.st_mode) && (S_ISDIR(st.st_mode) || !path.starts_with("/dev/")))
    wrong = Error(Code::kInvalidArgument, cat("cannot open ", path, ": it is ", kind_of(st.st_mode), ", want a regular file"));
  if (!wrong.ok()) {
    ::close(fd);
    return wrong.error();
  }
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  return fd;
}

Status write_all(int fd, const void* data, size_t bytes, const std::string& path) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t n = ::write(fd, p, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error("write", path);
    p += n;
    bytes -= static_cast<size_t>(n);
  }
  return {};
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  const int fd = TRY(open_to_read(path));
  struct stat st {};
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd);
    return Error(Code::kInvalidArgument, cat("cannot open ", path, ": it is ", kind_of(st.st_mode), ", want a regular file"));
  }
  MappedFile file;
  file.path_ = path;
  file.size_ = static_cast<size_t>(st.st_size);
  if (file.size_ > 0) {
    void* p = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
      file.size_ = 0;
      Error e = system_error("map", path);
      ::close(fd);
      return e;
    }
    file.data_ = static_cast<const std::byte*>(p);
  }
  ::close(fd);
  return file;
}

MappedFile::MappedFile(MappedFile&& o) noexcept
    : path_(std::move(o.path_)), data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& o) noexcept {
  std::swap(path_, o.path_);
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::forget(size_t offset, size_t bytes) const {
  const size_t page = 4096;
  const size_t begin = (offset + page - 1) / page * page, end = std::min(size_, offset + bytes) / page * page;
  if (data_ && begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

Result<std::string> read_file(const std::string& path, size_t max_bytes) {
  const int fd = TRY(open_to_read(path));
  std::string out;
  char buffer[1 << 16];
  for (;;) {
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error e = system_error("read", path);
      ::close(fd);
      return e;
    }
    if (n == 0) break;
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > max_bytes) {
      ::close(fd);
      return Error(Code::kInvalidArgument, cat(path, " is larger than ", max_bytes, " bytes, the limit for a file of its kind"));
    }
  }
  ::close(fd);
  return out;
}

Status write_file(const std::string& path, std::string_view bytes) {
  FileWriter writer = TRY(FileWriter::create(path));
  TRY(writer.append(bytes.data(), bytes.size()));
  return writer.finish();
}

Result<FileWriter> FileWriter::create(const std::string& path) {
  FileWriter w;
  w.path_ = path;
  w.temporary_ = cat(path, ".tmp", ::getpid());
  w.fd_ = ::open(w.temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (w.fd_ < 0) return system_error("create", w.temporary_);
  return w;
}

FileWriter::FileWriter(FileWriter&& o) noexcept
    : fd_(std::exchange(o.fd_, -1)), size_(o.size_), path_(std::move(o.path_)), temporary_(std::move(o.temporary_)) {}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

Status FileWriter::append(const void* data, size_t bytes) {
  TRY(write_all(fd_, data, bytes, temporary_));
  size_ += bytes;
  return {};
}

Status FileWriter::pad_to(size_t alignment) {
  const std::string zeros((alignment - size_ % alignment) % alignment, '\0');
  return append(zeros.data(), zeros.size());
}

Status FileWriter::extend(size_t size) {
  CHECK(size >= size_, "size ", size, " below ", size_);
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0 || ::lseek(fd_, 0, SEEK_END) < 0) return system_error("extend", temporary_);
  size_ = size;
  return {};
}

Status FileWriter::write_at(size_t offset, const void* data, size_t bytes) {
  CHECK(offset + bytes <= size_, "offset ", offset, " bytes ", bytes, " size ", size_);
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t n = ::pwrite(fd_, p, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error("write", temporary_);
    p += n;
    offset += static_cast<size_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return {};
}

Status FileWriter::finish() {
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    Error e = system_error("write", path_);
    ::unlink(temporary_.c_str());
    return e;
  }
  return {};
}

bool file_exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

bool is_directory(const std::string& path) {
  std::error_code ec;
  return std::filesystem::is_directory(path, ec);
}

Status check_output_file(std::string_view what, const std::string& path) {
  if (path.empty()) return {};
  const std::string parent = parent_directory(path), folder = parent.empty() ? "." : parent;
  if (!is_directory(folder)) return Error(Code::kNotFound, cat(what, " ", path, ": there is no folder ", folder));
  if (is_directory(path)) return Error(Code::kInvalidArgument, cat(what, " ", path, " is a folder, want a file"));
  if (::access(folder.c_str(), W_OK) != 0) return Error(Code::kInvalidArgument, cat(what, " ", path, ": the folder ", folder, " may not be written"));
  return {};
}

Status make_directories(const std::string& path) {
  std::error_code ec;
  std::filesystem::create_directories(path, ec);
  if (ec) return Error(Code::kInvalidArgument, cat("cannot create directory ", path, ": ", ec.message()));
  return {};
}

Result<std::vector<std::string>> list_directory(const std::string& path) {
  std::error_code ec;
  std::filesystem::directory_iterator it(path, ec);
  if (ec)
    return Error(ec == std::errc::no_such_file_or_directory ? Code::kNotFound : Code::kInvalidArgument,
                 cat("cannot list directory ", path, ": ", ec.message()));
  std::vector<std::string> names;
  for (const auto& entry : it) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string join_path(std::string_view directory, std::string_view name) {
  if (directory.empty()) return std::string(name);
  return directory.back() == '/' ? cat(directory, name) : cat(directory, "/", name);
}

std::string base_name(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  return std::string(slash == path.npos ? path : path.substr(slash + 1));
}

std::string parent_directory(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  return std::string(slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash));
}

}  // namespace ingot
