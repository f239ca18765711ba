#include <algorithm>
#include <unordered_map>

#include "base/files.h"
#include "text/chat_template.h"
#include "text/internal/sentencepiece_model.h"
#include "text/internal/strings.h"
#include "text/internal/tokenizer_json.h"
#include "text/load.h"
#include "text/tokenizer.h"

namespace ingot::text {
namespace {

// The JSON files of a model folder that say how its tokenizer is meant; {} for those that are absent.
struct Folder {
  std::string path, model_type;
  Json config = Json::object(), tokenizer_config = Json::object(), special_tokens = Json::object(), generation = Json::object(),
       added_tokens = Json::object();

  std::string file(std::string_view name) const { return join_path(path, name); }
  bool has(std::string_view name) const { return file_exists(file(name)); }
};

Result<Json> optional_json(const Folder& f, std::string_view name) {
  if (!f.has(name)) return Json::object();
  const std::string text = TRY(read_file(f.file(name), 1 << 28));
  Json j = TRY(parse_json(text, f.file(name)));
  if (!j.is_object()) return internal::wrong_type(j, "", f.file(name), "an object");
  return j;
}

Result<Folder> open_folder(std::string path, std::string_view model_type) {
  Folder f;
  f.path = std::move(path);
  f.config = TRY(optional_json(f, "config.json"));
  f.tokenizer_config = TRY(optional_json(f, "tokenizer_config.json"));
  f.special_tokens = TRY(optional_json(f, "special_tokens_map.json"));
  f.generation = TRY(optional_json(f, "generation_config.json"));
  f.added_tokens = TRY(optional_json(f, "added_tokens.json"));
  f.model_type = model_type.empty() ? TRY(get_or<std::string>(f.config, "model_type", "", f.file("config.json"))) : std::string(model_type);
  return f;
}

// A token is written as its text or as {"content": text, ...}; "" for neither.
std::string token_text(const Json& object, std::string_view key) {
  auto it = object.find(key);
  if (it == object.end()) return {};
  const Json* v = &*it;
  if (v->is_object() && v->contains("content")) v = &(*v)["content"];
  return v->is_string() ? v->get<std::string>() : std::string();
}

std::string named_token(const Folder& f, const char* key) {
  std::string text = token_text(f.tokenizer_config, key);
  // A null in tokenizer_config.json says that there is none.
  if (text.empty() && !f.tokenizer_config.contains(key)) text = token_text(f.special_tokens, key);
  return text;
}

// Ids under `key`: a number or a list of numbers.
Status read_ids(const Json& object, const char* key, std::string_view what, std::vector<int32_t>& out) {
  auto it = object.find(key);
  if (it == object.end() || it->is_null()) return {};
  if (it->is_array()) {
    for (int32_t id : TRY(get<std::vector<int32_t>>(object, key, what))) out.push_back(id);
  } else {
    out.push_back(TRY(get<int32_t>(object, key, what)));
  }
  return {};
}

Status read_templates(const Folder& f, TokenizerInfo& info) {
  const std::string what = f.file("tokenizer_config.json");
  if (auto it = f.tokenizer_config.find("chat_template"); it != f.tokenizer_config.end()) {
    if (it->is_string()) info.chat_template = it->get<std::string>();
    if (it->is_array()) {
      for (const Json& entry : *it) {
        std::string name = TRY(get<std::string>(entry, "name", what));
        std::string source = TRY(get<std::string>(entry, "template", what));
        if (name == "default") info.chat_template = std::move(source);
        else info.named_templates.emplace_back(std::move(name), std::move(source));
      }
    }
  }
  const Json legacy = TRY(optional_json(f, "chat_template.json"));
  if (info.chat_template.empty()) info.chat_template = TRY(get_or<std::string>(legacy, "chat_template", "", f.file("chat_template.json")));
  if (f.has("chat_template.jinja")) info.chat_template = TRY(read_file(f.file("chat_template.jinja"), 1 << 24));
  if (const std::string more = f.file("additional_chat_templates"); is_directory(more)) {
    for (const std::string& name : TRY(list_directory(more))) {
      if (!name.ends_with(".jinja")) continue;
      std::string source = TRY(read_file(join_path(more, name), 1 << 24));
      info.named_templates.emplace_back(name.substr(0, name.size() - 6), std::move(source));
    }
  }
  return {};
}

Status read_info(const Folder& f, TokenizerInfo& info) {
  info.bos_token = named_token(f, "bos_token");
  info.eos_token = named_token(f, "eos_token");
  info.pad_token = named_token(f, "pad_token");
  info.unk_token = named_token(f, "unk_token");
  TRY(read_templates(f, info));
  TRY(read_ids(f.generation, "eos_token_id", f.file("generation_config.json"), info.stop_ids));
  if (info.stop_ids.empty()) TRY(read_ids(f.config, "eos_token_id", f.file("config.json"), info.stop_ids));
  if (info.eos_token.empty() && !info.stop_ids.empty()) info.eos = info.stop_ids[0];
  if (f.model_type == "qwen") info.family = "chatml";
  if (f.model_type == "chatglm") info.family = "glm4";  // of ChatGLM 3 its loader says so
  if (f.model_type == "yuan") {
    info.family = "yuan";
    info.newline_text = "<n>";
    info.prompt_suffix = "<sep>";
    if (info.eos_token.empty()) info.eos_token = "<eod>";
  }
  return {};
}

AddedToken added_from(const Json& j, std::string content, int32_t id) {
  auto flag = [&](const char* key, bool otherwise) {
    auto it = j.find(key);
    return it != j.end() && it->is_boolean() ? it->get<bool>() : otherwise;
  };
  const bool special = flag("special", false);
  return {std::move(content), id, special, flag("lstrip", false), flag("rstrip", false), flag("normalized", !special),
          flag("single_word", false)};
}

// The added tokens of a tokenizer without tokenizer.json: by id from added_tokens_decoder or added_tokens.json, then the special ones.
Result<std::vector<AddedToken>> read_added(const Folder& f) {
  std::vector<AddedToken> added;
  auto known = [&](const std::string& s) {
    return std::any_of(added.begin(), added.end(), [&](const AddedToken& a) { return a.content == s; });
  };
  if (auto it = f.tokenizer_config.find("added_tokens_decoder"); it != f.tokenizer_config.end() && it->is_object()) {
    for (const auto& [key, value] : it->items()) {
      int32_t id = -1;
      for (char c : key) id = c >= '0' && c <= '9' && id < 100000000 ? std::max(id, 0) * 10 + (c - '0') : -2;
      if (id < 0 || !value.is_object())
        return Error(Code::kInvalidArgument,
                     cat(f.file("tokenizer_config.json"), ": added_tokens_decoder has the key '", key, "', want ids with objects"));
      std::string content = TRY(get<std::string>(value, "content", f.file("tokenizer_config.json")));
      added.push_back(added_from(value, std::move(content), id));
    }
  }
  std::vector<std::string> special;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"})
    if (std::string s = named_token(f, key); !s.empty()) special.push_back(std::move(s));
  for (const Json* j : {&f.tokenizer_config, &f.special_tokens}) {
    auto it = j->find("additional_special_tokens");
    if (it == j->end() || !it->is_array()) continue;
    for (const Json& e : *it) special.push_back(e.is_object() ? token_text(e, "content") : e.is_string() ? e.get<std::string>() : "");
  }
  for (const auto& [content, id] : f.added_tokens.items()) {
    if (known(content)) continue;
    const bool is_special = std::find(special.begin(), special.end(), content) != special.end();
    const int32_t number = TRY(get<int32_t>(f.added_tokens, content, f.file("added_tokens.json")));
    added.push_back({.content = content, .id = number, .special = is_special});
  }
  for (const std::string& s : special)
    if (!s.empty() && !known(s)) added.push_back({.content = s});
  if (f.model_type == "yuan") {  // Yuan 2.0's programs add these after loading, in this order
    for (const char* s : {"<sep>", "<pad>", "<mask>", "<predict>", "<FIM_SUFFIX>", "<FIM_PREFIX>", "<FIM_MIDDLE>", "<commit_before>",
                          "<commit_msg>", "<commit_after>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>",
                          "<empty_output>"})
      if (!known(s)) added.push_back({.content = s});
  }
  // Those with an id first, by id: the others follow the highest.
  std::stable_sort(added.begin(), added.end(),
                   [](const AddedToken& a, const AddedToken& b) { return static_cast<uint32_t>(a.id) < static_cast<uint32_t>(b.id); });
  return added;
}

Result<SealedTokenizer> load_json(const Folder& f, const std::string& file) {
  SealedTokenizer sealed;
  sealed.tokenizer_json = TRY(read_file(file));
  TRY(read_info(f, sealed.info));
  sealed = TRY(finish(std::move(sealed), file));
  // tokenizer_config.json overrules the file's post processor in the classes that know these keys.
  const std::string what = f.file("tokenizer_config.json");
  const std::string kind = TRY(get_or<std::string>(f.tokenizer_config, "tokenizer_class", "", what));
  const bool obeys = kind.starts_with("Llama") || kind.starts_with("CodeLlama") || kind.starts_with("Gemma") || kind.starts_with("Cohere");
  const bool bos = TRY(get_or<bool>(f.tokenizer_config, "add_bos_token", sealed.info.add_bos, what));
  const bool eos = TRY(get_or<bool>(f.tokenizer_config, "add_eos_token", sealed.info.add_eos, what));
  if (!obeys || (bos == sealed.info.add_bos && eos == sealed.info.add_eos)) return sealed;
  if ((bos && sealed.info.bos < 0) || (eos && sealed.info.eos < 0))
    return Error(Code::kInvalidArgument, cat(what, " wants ", bos && sealed.info.bos < 0 ? "bos" : "eos", " added, but there is no such token"));
  std::vector<std::string> tokens(static_cast<size_t>(std::max(sealed.info.bos, sealed.info.eos)) + 1);
  std::vector<int32_t> prefix, suffix;
  if (bos) prefix = {sealed.info.bos}, tokens[sealed.info.bos] = sealed.info.bos_token;
  if (eos) suffix = {sealed.info.eos}, tokens[sealed.info.eos] = sealed.info.eos_token;
  const std::string processor = dump_json(around(prefix, suffix, tokens));
  std::string& json = sealed.tokenizer_json;
  if (auto old = top_level_value(json, "post_processor")) {
    json.replace(old->data() - json.data(), old->size(), processor);
  } else {
    json.insert(json.find('{') + 1, cat("\"post_processor\":", processor, ","));
  }
  return finish(std::move(sealed), file);
}

// Reads {"token": id, ...}; a DOM of 150,000 insertion-ordered keys would take minutes.
class VocabularyReader {
 public:
  using J = nlohmann::json;
  std::vector<std::string> tokens;
  std::string wrong;

  bool null() { return fail("null"); }
  bool boolean(bool) { return fail("a boolean"); }
  bool number_integer(J::number_integer_t v) { return put(v); }
  bool number_unsigned(J::number_unsigned_t v) { return put(v > INT32_MAX ? -1 : static_cast<int64_t>(v)); }
  bool number_float(J::number_float_t, const J::string_t&) { return fail("a float"); }
  bool string(J::string_t&) { return fail("a text"); }
  bool binary(J::binary_t&) { return fail("bytes"); }
  bool start_object(size_t) { return depth_++ == 0 || fail("an object"); }
  bool key(J::string_t& k) {
    key_ = std::move(k);
    return true;
  }
  bool end_object() { return true; }
  bool start_array(size_t) { return fail("a list"); }
  bool end_array() { return true; }
  bool parse_error(size_t at, const std::string&, const J::exception&) {
    wrong = cat("not JSON at byte ", at);
    return false;
  }

 private:
  bool fail(const char* found) {
    wrong = cat("token '", key_, "' has ", found, ", want an id");
    return false;
  }
  bool put(int64_t id) {
    if (depth_ != 1 || id < 0 || id >= 1 << 23) {
      wrong = cat("token '", key_, "' has the id ", id, ", want 0 .. ", (1 << 23) - 1);
      return false;
    }
    if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(id + 1);
    tokens[id] = std::move(key_);
    return true;
  }
  std::string key_;
  int depth_ = 0;
};

// vocab.json and merges.txt: byte-level BPE as GPT-2 wrote it.
Result<SealedTokenizer> load_gpt2(const Folder& f) {
  const std::string vocab_file = f.file("vocab.json"), merges_file = f.file("merges.txt");
  const std::string vocab = TRY(read_file(vocab_file)), merges = TRY(read_file(merges_file));
  VocabularyReader reader;
  if (!nlohmann::json::sax_parse(vocab, &reader)) return Error(Code::kInvalidArgument, cat(vocab_file, ": ", reader.wrong));
  VocabularyModel model;
  model.tokens = std::move(reader.tokens);
  std::unordered_map<std::string, int32_t> ids;
  ids.reserve(model.tokens.size());
  for (size_t i = 0; i < model.tokens.size(); ++i) ids.emplace(model.tokens[i], static_cast<int32_t>(i));
  std::string_view rest = merges;
  for (size_t line_number = 1; !rest.empty(); ++line_number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    const size_t space = line.find(' ', 1);
    auto left = space == line.npos ? ids.end() : ids.find(std::string(line.substr(0, space)));
    auto right = space == line.npos ? ids.end() : ids.find(std::string(line.substr(space + 1)));
    if (left == ids.end() || right == ids.end() || !ids.contains(cat(left->first, right->first)))
      return Error(Code::kInvalidArgument, cat(merges_file, ", line ", line_number, ": '", line,
                                               "', want two tokens of vocab.json whose joint is one too"));
    model.merges.emplace_back(left->second, right->second);
  }
  const std::string what = f.file("tokenizer_config.json");
  const std::string kind = TRY(get_or<std::string>(f.tokenizer_config, "tokenizer_class", "", what));
  const SplitRule rule = TRY(split_rule(kind.starts_with("Qwen2") || f.model_type.starts_with("qwen") ? "qwen2" : "gpt-2"));
  Pipeline p;
  if (rule.nfc) p.normalizer = {{"type", "NFC"}};
  const bool prefix_space = TRY(get_or<bool>(f.tokenizer_config, "add_prefix_space", false, what));
  const bool add_bos = TRY(get_or<bool>(f.tokenizer_config, "add_bos_token", false, what));
  p.pre_tokenizer = byte_level_pre_tokenizer(rule.patterns, prefix_space);
  p.decoder = byte_level_decoder();
  p.added = TRY(read_added(f));
  SealedTokenizer sealed;
  TRY(read_info(f, sealed.info));
  if (sealed.info.eos_token.empty() && sealed.info.eos < 0 && ids.contains("<|endoftext|>")) {  // GPT-2's first files name no token
    for (std::string* token : {&sealed.info.bos_token, &sealed.info.eos_token, &sealed.info.unk_token}) *token = "<|endoftext|>";
    p.added.push_back({.content = "<|endoftext|>"});
  }
  for (AddedToken& a : p.added) {
    if (auto it = ids.find(a.content); it != ids.end()) a.id = it->second;
    if (a.id < 0) a.id = static_cast<int32_t>(model.tokens.size());
    if (a.id >= 1 << 23) return Error(Code::kInvalidArgument, cat(f.path, ": added token '", a.content, "' has id ", a.id));
    if (static_cast<size_t>(a.id) >= model.tokens.size()) model.tokens.resize(a.id + 1);
    model.tokens[a.id] = a.content;
    if (add_bos && a.content == sealed.info.bos_token) p.prefix = {a.id};
  }
  sealed.tokenizer_json = tokenizer_json(model, p);
  return finish(std::move(sealed), f.path);
}

Result<SealedTokenizer> load_sentencepiece(const Folder& f, const std::string& file, std::string_view bytes) {
  const std::string what = f.file("tokenizer_config.json");
  SentencePieceModel m = TRY(parse_sentencepiece(bytes, file));
  std::vector<AddedToken> added = TRY(read_added(f));
  SealedTokenizer sealed;
  TokenizerInfo& info = sealed.info;
  TRY(read_info(f, info));
  const bool baichuan = f.model_type == "baichuan", yuan = f.model_type == "yuan", chatglm = f.model_type == "chatglm";
  if (chatglm) {  // ChatGLM's program gives these the ids behind the vocabulary; two of them open every text
    int32_t id = static_cast<int32_t>(m.pieces.size());
    for (const std::string token : {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"}) {
      const bool word = token == "sop" || token == "eop";  // in no other word
      if (std::none_of(added.begin(), added.end(), [&](const AddedToken& a) { return a.content == token; })) added.push_back({.content = token, .id = id, .single_word = word});
      ++id;
    }
    m.opening = {"[gMASK]", "sop"};
    info.family = "chatglm3";
    for (const AddedToken& a : added)
      if (a.content == "<|user|>" || a.content == "<|observation|>") info.stop_ids.push_back(a.id);  // the answer ends where another turn begins
  }
  if (baichuan) {
    const int32_t user = TRY(get_or<int32_t>(f.generation, "user_token_id", 195, f.file("generation_config.json")));
    const int32_t assistant = TRY(get_or<int32_t>(f.generation, "assistant_token_id", 196, f.file("generation_config.json")));
    const int32_t count = static_cast<int32_t>(m.pieces.size());
    if (user >= 0 && user < count && assistant >= 0 && assistant < count) {
      const std::string &user_text = m.pieces[user].text, &assistant_text = m.pieces[assistant].text;
      for (const std::string* s : {&user_text, &assistant_text})
        if (std::none_of(added.begin(), added.end(), [&](const AddedToken& a) { return a.content == *s; })) added.push_back({.content = *s});
      info.family = "baichuan";
      if (info.chat_template.empty())
        info.chat_template = replace_all(replace_all(fallback_template("baichuan"), "<reserved_106>", user_text), "<reserved_107>", assistant_text);
    }
  }
  m.segments_get_prefix = TRY(get_or<bool>(f.tokenizer_config, "legacy", true, what));
  const bool add_bos = TRY(get_or<bool>(f.tokenizer_config, "add_bos_token", !yuan && !baichuan && !chatglm, what));
  const bool add_eos = TRY(get_or<bool>(f.tokenizer_config, "add_eos_token", false, what));
  auto piece = [&](std::string& token, int32_t& id) {  // the configuration's token, or the model file's
    if (token.empty() && id >= 0) token = m.pieces[id].text;
    for (size_t i = 0; !token.empty() && i < m.pieces.size(); ++i)
      if (m.pieces[i].text == token) id = static_cast<int32_t>(i);
  };
  piece(info.bos_token, m.bos);
  piece(info.eos_token, m.eos);
  piece(info.unk_token, m.unk);
  if (info.pad_token.empty() && m.pad >= 0) info.pad_token = m.pieces[m.pad].text;
  sealed.tokenizer_json = TRY(tokenizer_json(m, std::move(added), add_bos, add_eos, file));
  return finish(std::move(sealed), file);
}

Result<SealedTokenizer> load_ranks(const Folder& f, const std::string& file, std::string_view bytes, TiktokenOptions options) {
  if (f.config.contains("visual"))  // Qwen-VL's marks follow Qwen's specials
    for (const char* s : {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"})
      options.added.push_back({.content = s});
  // A folder that lists its special tokens has others than the published vocabulary of the kind.
  if (auto it = f.tokenizer_config.find("added_tokens_decoder"); it != f.tokenizer_config.end() && it->is_object() && !it->empty()) options.added = TRY(read_added(f));
  SealedTokenizer sealed = TRY(from_tiktoken(bytes, options, file));
  TokenizerInfo info;
  TRY(read_info(f, info));
  info.eos = -1;
  if (info.bos_token.empty()) info.bos_token = sealed.info.bos_token;
  if (info.eos_token.empty()) info.eos_token = sealed.info.eos_token;
  if (info.pad_token.empty()) info.pad_token = sealed.info.pad_token;
  sealed.info = info;
  sealed = TRY(finish(std::move(sealed), file));
  // Qwen's chat programs stop at both marks of a turn.
  if (TRY(get_or<std::string>(f.generation, "chat_format", "", f.file("generation_config.json"))) == "chatml") {
    auto t = TRY(Tokenizer::create(sealed));
    for (const char* mark : {"<|im_end|>", "<|im_start|>"})
      if (int32_t id = t->id_of(mark); id >= 0) sealed.info.stop_ids.push_back(id);
    std::sort(sealed.info.stop_ids.begin(), sealed.info.stop_ids.end());
  }
  return sealed;
}

// Lines of "base64 rank" start with a base64 word, a space and a digit; a protobuf has bytes below 0x20 there.
bool looks_like_ranks(std::string_view bytes) {
  const size_t space = bytes.substr(0, 64).find(' ');
  return space != bytes.npos && space + 1 < bytes.size() && bytes[space + 1] >= '0' && bytes[space + 1] <= '9' &&
         from_base64(bytes.substr(0, space)).has_value();
}

Result<SealedTokenizer> load_file(const Folder& f, const std::string& file) {
  const std::string name = base_name(file);
  if (name.ends_with(".json") && name != "vocab.json") return load_json(f, file);
  if (name == "vocab.json" || name == "merges.txt") return load_gpt2(f);
  const std::string bytes = TRY(read_file(file));
  if (bytes.starts_with("version https://git-lfs")) return Error(Code::kInvalidArgument, cat(file, " is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"));
  if (!looks_like_ranks(bytes)) return load_sentencepiece(f, file, bytes);
  const bool qwen = name.starts_with("qwen") || f.model_type == "qwen";
  return load_ranks(f, file, bytes, qwen ? qwen_tiktoken() : f.model_type == "chatglm" ? glm4_tiktoken() : llama3_tiktoken());
}

}  // namespace

Result<SealedTokenizer> load_tokenizer(const std::string& path, std::string_view model_type) {
  if (!is_directory(path)) {
    if (!file_exists(path)) return Error(Code::kNotFound, cat("tokenizer ", path, " does not exist, want a model folder or a tokenizer file"));
    const Folder f = TRY(open_folder(parent_directory(path), model_type));
    return load_file(f, path);
  }
  const Folder f = TRY(open_folder(path, model_type));
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken", "tiktoken.model"})
    if (f.has(name)) return load_file(f, f.file(name));
  for (const std::string& name : TRY(list_directory(path)))
    if (name.ends_with(".tiktoken")) return load_file(f, f.file(name));
  if (f.has("vocab.txt"))
    return Error(Code::kUnsupported, cat(path, " has a WordPiece vocabulary (vocab.txt), which no decoder model here uses"));
  return Error(Code::kNotFound,
               cat(path, " has no tokenizer, want one of tokenizer.json, tokenizer.model, vocab.json with merges.txt, *.tiktoken"));
}

}  // namespace ingot::text
