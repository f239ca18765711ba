#include <algorithm>
#include <cstring>

#include "base/files.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "formats/source.h"
#include "formats/torch.h"

namespace ingot::formats {
namespace {

using Source = Result<std::unique_ptr<TensorSource>>;

Source open_gguf(const std::string& path) { return std::unique_ptr<TensorSource>(TRY(GgufFile::open(path))); }

bool begins(std::span<const std::byte> head, std::string_view magic) {
  return head.size() >= magic.size() && std::memcmp(head.data(), magic.data(), magic.size()) == 0;
}

bool is_meta_name(const std::string& name) { return name.starts_with("consolidated.") && name.ends_with(".pth"); }

std::vector<std::string> in_directory(const std::string& directory, std::vector<std::string> names) {
  for (std::string& n : names) n = join_path(directory, n);
  return names;
}

Source open_file(const std::string& path) {
  if (path.ends_with(".safetensors.index.json")) return open_safetensors_index(path);
  if (path.ends_with(".bin.index.json")) {
    const std::vector<std::string> shards = TRY(read_shard_index(path, nullptr));
    std::unique_ptr<TensorSource> source = TRY(open_torch_shards(in_directory(parent_directory(path), shards), path));
    TRY(read_shard_index(path, source.get()));
    return source;
  }
  MappedFile mapped = TRY(MappedFile::open(path));
  const auto bytes = mapped.bytes();
  if (begins(bytes, "version https://git-lfs"))
    return Error(Code::kInvalidArgument, cat(path, " is a Git LFS pointer of ", bytes.size(), " bytes, not the file itself: fetch it with `git lfs pull`"));
  if (begins(bytes, "GGUF")) return open_gguf(path);
  if (is_tensorrt_plan(bytes))
    return Error(Code::kUnsupported, cat(path, " is a TensorRT engine (plan): machine code for one GPU model and one TensorRT version, from which the "
                                               "weights cannot be read; convert and build from the original checkpoint"));
  if (looks_like_torch(bytes)) return is_meta_name(base_name(path)) ? open_meta({path}, path) : open_torch(path);
  // A safetensors header is a JSON object behind its 8 bytes of length.
  if (path.ends_with(".safetensors") || (bytes.size() > 8 && bytes[8] == std::byte{'{'})) return open_safetensors(path);
  return Error(Code::kInvalidArgument,
               cat(path, " (", bytes.size(), " bytes) does not begin as a safetensors file, a GGUF file or a file written by torch.save"));
}

}  // namespace

bool is_tensorrt_plan(std::span<const std::byte> head) { return begins(head, "ftrt") || begins(head, "ptrt"); }

Result<std::unique_ptr<TensorSource>> open_source(const std::string& path) {
  if (!is_directory(path)) return open_file(path);
  const std::vector<std::string> names = TRY(list_directory(path));
  const auto has = [&](std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  const auto with = [&](std::string_view head, std::string_view tail) {
    std::vector<std::string> out;
    for (const std::string& n : names)
      if (n.size() >= head.size() + tail.size() && n.starts_with(head) && n.ends_with(tail)) out.push_back(n);
    return out;
  };
  for (const char* name : {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"})
    if (has(name)) return open_file(join_path(path, name));
  if (has("rank0.safetensors"))
    return Error(Code::kInvalidArgument, cat(path, " is a unified checkpoint (rank0.safetensors), want a published model; build from it directly"));
  const auto indexes = with("", ".safetensors.index.json"), tensors = with("", ".safetensors");
  if (indexes.size() == 1) return open_file(join_path(path, indexes[0]));
  if (tensors.size() == 1 && indexes.empty()) return open_file(join_path(path, tensors[0]));
  const auto bins = with("pytorch_model-", ".bin"), metas = with("consolidated.", ".pth");
  if (!bins.empty()) return open_torch_shards(in_directory(path, bins), path);
  if (!metas.empty()) return open_meta(in_directory(path, metas), path);
  std::vector<std::string> ggufs = with("", ".gguf");
  std::erase_if(ggufs, [](const std::string& n) {  // parts 2.. of a split file come with its first
    const size_t of = n.rfind("-of-");
    return of != n.npos && of >= 6 && n[of - 6] == '-' && n.compare(of - 5, 5, "00001") != 0;
  });
  if (ggufs.size() == 1) return open_file(join_path(path, ggufs[0]));
  return Error(Code::kNotFound,
               cat(path, " holds no weights that can be read: looked for model.safetensors(.index.json), pytorch_model.bin(.index.json), one "
                         "*.safetensors(.index.json) (found ", tensors.size(), "), pytorch_model-*.bin, consolidated.*.pth, one *.gguf (found ", ggufs.size(), ")",
                   with("", ".engine").empty() ? "" : "; the *.engine files there are engines, not checkpoints"));
}

}  // namespace ingot::formats
