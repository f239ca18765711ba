#include "text/sealed.h"

#include <cstring>

#include "base/json.h"

namespace ingot::text {
namespace {

constexpr std::string_view kMagic = "INGTOK1\n";
constexpr std::string_view kWhat = "sealed tokenizer";

void append_u64(std::string& out, uint64_t v) {
  for (int i = 0; i < 8; ++i) out += static_cast<char>(v >> (8 * i) & 0xff);
}

Result<std::string_view> take_block(std::string_view& bytes, const char* name) {
  if (bytes.size() < 8)
    return Error(Code::kInvalidArgument, cat(kWhat, " ends before the size of ", name, ": ", bytes.size(), " bytes left, want 8"));
  uint64_t size = 0;
  for (int i = 0; i < 8; ++i) size |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  bytes.remove_prefix(8);
  if (size > bytes.size())
    return Error(Code::kInvalidArgument, cat(kWhat, ": ", name, " has ", size, " bytes, but only ", bytes.size(), " are left"));
  std::string_view block = bytes.substr(0, size);
  bytes.remove_prefix(size);
  return block;
}

}  // namespace

std::string serialize(const SealedTokenizer& sealed) {
  const TokenizerInfo& i = sealed.info;
  Json named = Json::array();
  for (const auto& [name, source] : i.named_templates) named.push_back({{"name", name}, {"template", source}});
  const Json info = {{"chat_template", i.chat_template}, {"named_templates", named},       {"bos_token", i.bos_token},
                     {"eos_token", i.eos_token},         {"pad_token", i.pad_token},       {"unk_token", i.unk_token},
                     {"bos", i.bos},                     {"eos", i.eos},                   {"pad", i.pad},
                     {"unk", i.unk},                     {"stop_ids", i.stop_ids},         {"add_bos", i.add_bos},
                     {"add_eos", i.add_eos},             {"newline_text", i.newline_text}, {"prompt_suffix", i.prompt_suffix},
                     {"family", i.family}};
  const std::string text = dump_json(info);
  std::string out(kMagic);
  append_u64(out, text.size());
  out += text;
  append_u64(out, sealed.tokenizer_json.size());
  out += sealed.tokenizer_json;
  return out;
}

Result<SealedTokenizer> deserialize(std::string_view bytes) {
  if (bytes.substr(0, kMagic.size()) != kMagic)
    return Error(Code::kInvalidArgument, cat(kWhat, " does not start with INGTOK1: it is damaged, or of a later version"));
  bytes.remove_prefix(kMagic.size());
  const std::string_view info_text = TRY(take_block(bytes, "info"));
  const std::string_view tokenizer_json = TRY(take_block(bytes, "tokenizer.json"));
  if (!bytes.empty()) return Error(Code::kInvalidArgument, cat(kWhat, " has ", bytes.size(), " bytes after its end"));
  const Json j = TRY(parse_json(info_text, kWhat));
  SealedTokenizer sealed;
  TokenizerInfo& i = sealed.info;
  i.chat_template = TRY(get<std::string>(j, "chat_template", kWhat));
  i.bos_token = TRY(get<std::string>(j, "bos_token", kWhat));
  i.eos_token = TRY(get<std::string>(j, "eos_token", kWhat));
  i.pad_token = TRY(get<std::string>(j, "pad_token", kWhat));
  i.unk_token = TRY(get<std::string>(j, "unk_token", kWhat));
  i.bos = TRY(get<int32_t>(j, "bos", kWhat));
  i.eos = TRY(get<int32_t>(j, "eos", kWhat));
  i.pad = TRY(get<int32_t>(j, "pad", kWhat));
  i.unk = TRY(get<int32_t>(j, "unk", kWhat));
  i.stop_ids = TRY(get<std::vector<int32_t>>(j, "stop_ids", kWhat));
  i.add_bos = TRY(get<bool>(j, "add_bos", kWhat));
  i.add_eos = TRY(get<bool>(j, "add_eos", kWhat));
  i.newline_text = TRY(get<std::string>(j, "newline_text", kWhat));
  i.prompt_suffix = TRY(get<std::string>(j, "prompt_suffix", kWhat));
  i.family = TRY(get<std::string>(j, "family", kWhat));
  if (auto named = j.find("named_templates"); named != j.end()) {
    if (!named->is_array()) return internal::wrong_type(*named, "named_templates", kWhat, "an array");
    for (const Json& n : *named) {
      std::string name = TRY(get<std::string>(n, "name", kWhat));
      std::string source = TRY(get<std::string>(n, "template", kWhat));
      i.named_templates.emplace_back(std::move(name), std::move(source));
    }
  }
  sealed.tokenizer_json = tokenizer_json;
  return sealed;
}

}  // namespace ingot::text
