#include "convert/tokenizer.h"

#include "base/files.h"
#include "formats/gguf.h"
#include "text/load.h"

namespace ingot::convert {
namespace {

constexpr const char* kFiles[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken"};

bool has_tokenizer(const std::string& directory) {
  for (const char* name : kFiles)
    if (file_exists(join_path(directory, name))) return true;
  return false;
}

}  // namespace

Result<std::string> sealed_tokenizer(const std::string& path, const formats::TensorSource& source) {
  if (const formats::GgufFile* file = source.gguf(); file && file->has_vocabulary()) {
    formats::GgufVocabulary v = TRY(file->vocabulary());
    text::GgufVocab g;
    g.model = std::move(v.model);
    g.pre = std::move(v.pre);
    g.tokens = std::move(v.tokens);
    g.merges = std::move(v.merges);
    g.scores = std::move(v.scores);
    g.token_types.assign(v.types.begin(), v.types.end());
    g.bos = v.bos;
    g.eos = v.eos;
    g.unk = v.unknown;
    g.pad = v.padding;
    g.eot = v.eot;
    if (v.has_add_bos) g.add_bos = v.add_bos;
    if (file->value("tokenizer.ggml.add_eos_token")) g.add_eos = v.add_eos;
    if (file->value("tokenizer.ggml.add_space_prefix")) g.add_space_prefix = v.add_space_prefix;
    g.chat_template = std::move(v.chat_template);
    auto sealed = text::from_gguf(g);
    if (!sealed.ok()) return sealed.error().in(cat("tokenizer of ", path));
    return text::serialize(*sealed);
  }
  const std::string directory = is_directory(path) ? path : parent_directory(path);
  if (!has_tokenizer(directory)) return std::string();
  return text::serialize(TRY(text::load_tokenizer(directory)));
}

Result<std::string> checkpoint_tokenizer(const std::string& directory) {
  const std::string sealed = join_path(directory, kTokenizerFile);
  if (file_exists(sealed)) return read_file(sealed);
  if (!has_tokenizer(directory)) return std::string();
  return text::serialize(TRY(text::load_tokenizer(directory)));
}

}  // namespace ingot::convert
