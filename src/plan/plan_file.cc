#include "plan/plan_file.h"

#include <cstring>

#include "base/json.h"
#include "plan/hash.h"
#include "plan/internal/codec.h"

namespace ingot::plan {
namespace {

constexpr char kMagic[8] = {'I', 'N', 'G', 'O', 'T', 'E', 'N', 'G'};
constexpr size_t kWeightAlignment = 4096, kSmallAlignment = 64;
constexpr uint32_t kMaxSections = 64;
constexpr uint32_t kRequired = 1;  // flag: a reader that does not know the section must refuse the file

bool is_required(std::string_view section) { return section == "plan" || section == "weights" || section == kRanksSection || section == kPartSection; }

struct FileHeader {
  char magic[8];
  uint32_t version, header_bytes;
  uint64_t file_bytes;
  uint64_t table_offset, table_hash;
  uint32_t sections, reserved;
  uint64_t zero[2];
};
static_assert(sizeof(FileHeader) == 64);

struct SectionRow {
  char name[16];
  uint64_t offset, bytes, hash;
  uint32_t flags, reserved;
  uint64_t zero[2];
};
static_assert(sizeof(SectionRow) == 64);

std::string_view as_text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
std::span<const std::byte> as_bytes(std::string_view text) { return {reinterpret_cast<const std::byte*>(text.data()), text.size()}; }

Error damaged(std::string_view what, const std::string& why) { return Error(Code::kInvalidArgument, cat("engine ", what, ": ", why)); }

Result<FileHeader> read_header(std::span<const std::byte> bytes, std::string_view what) {
  FileHeader h;
  const std::string_view head = as_text(bytes.first(std::min<size_t>(bytes.size(), 4)));
  if (head == "ftrt" || head == "ptrt")
    return Error(Code::kUnsupported, cat("engine ", what, " is a TensorRT plan, which only the TensorRT version that built it can read; rebuild it here from its checkpoint: ingot build --checkpoint_dir CHECKPOINT --output_dir ENGINE"));
  if (bytes.size() < sizeof h) return damaged(what, cat("has ", bytes.size(), " bytes, want at least the ", sizeof h, " of the header"));
  std::memcpy(&h, bytes.data(), sizeof h);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) return damaged(what, "does not start with INGOTENG: it is no engine file");
  if (h.version == 0 || h.version > kFormatVersion)
    return Error(Code::kUnsupported, cat("engine ", what, " has format version ", h.version, ", this program reads 1 .. ", kFormatVersion, ": take a later one"));
  if (h.header_bytes != sizeof h) return damaged(what, cat("header at byte 12 says ", h.header_bytes, " bytes, want ", sizeof h));
  if (h.file_bytes != bytes.size()) return damaged(what, cat("has ", bytes.size(), " bytes, its header says ", h.file_bytes, ": it is cut short or was appended to"));
  if (h.sections > kMaxSections) return damaged(what, cat("header at byte 40 says ", h.sections, " sections, want at most ", kMaxSections));
  if (h.table_offset > bytes.size() || h.sections * sizeof(SectionRow) > bytes.size() - h.table_offset)
    return damaged(what, cat("section table at byte ", h.table_offset, " does not fit in the file"));
  if (h.reserved || h.zero[0] || h.zero[1]) return damaged(what, "reserved bytes of the header are not zero");
  return h;
}

}  // namespace

Result<PlanWriter> PlanWriter::create(const std::vector<std::string>& paths) {
  CHECK(!paths.empty() && paths.size() <= static_cast<size_t>(kMaxRanks), paths.size(), " ranks");
  PlanWriter w;
  for (const std::string& path : paths) {
    CHECK(parent_directory(path) == parent_directory(paths[0]), path);
    FileWriter file = TRY(FileWriter::create(path));
    w.files_.push_back({path, std::move(file), {}});
    File& f = w.files_.back();
    const FileHeader zero{};
    TRY(f.file.append(&zero, sizeof zero));  // patched by finish()
    TRY(f.file.pad_to(kWeightAlignment));
    f.weights_begin = f.weights_end = f.file.size();
  }
  return w;
}

uint64_t PlanWriter::size() const {
  uint64_t bytes = 0;
  for (const File& f : files_) bytes += f.file.size();
  return bytes;
}

Result<PlacedBytes> PlanWriter::append_weight(std::span<const std::byte> bytes, int rank) {
  File& f = files_.at(static_cast<size_t>(rank));
  CHECK(f.sections.empty(), "weights come before sections");
  TRY(f.file.pad_to(bytes.size() >= kWeightAlignment ? kWeightAlignment : kSmallAlignment));
  const PlacedBytes place{f.file.size(), bytes.size(), hash_bytes(bytes)};
  TRY(f.file.append(bytes.data(), bytes.size()));
  f.weights_end = f.file.size();
  return place;
}

Status PlanWriter::section(std::string_view name, std::string_view bytes) { return add_section(files_[0], name, bytes); }

Status PlanWriter::add_section(File& f, std::string_view name, std::string_view bytes) {
  CHECK(!name.empty() && name.size() <= sizeof SectionRow::name, "section name ", name);
  for (const Section& s : f.sections) CHECK(s.name != name, "section ", name, " twice");
  TRY(f.file.pad_to(kSmallAlignment));
  f.sections.push_back({std::string(name), {f.file.size(), bytes.size(), hash_bytes(as_bytes(bytes))}});
  return f.file.append(bytes.data(), bytes.size());
}

Result<uint64_t> PlanWriter::close(File& f) {
  f.sections.push_back({"weights", {f.weights_begin, f.weights_end - f.weights_begin, 0}});
  TRY(f.file.pad_to(kSmallAlignment));
  std::vector<SectionRow> table;
  for (const Section& s : f.sections) {
    SectionRow row{};
    std::memcpy(row.name, s.name.data(), s.name.size());
    row.offset = s.place.offset;
    row.bytes = s.place.bytes;
    row.hash = s.place.hash;
    row.flags = is_required(s.name) ? kRequired : 0;
    table.push_back(row);
  }
  FileHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kFormatVersion;
  h.header_bytes = sizeof h;
  h.table_offset = f.file.size();
  h.sections = static_cast<uint32_t>(table.size());
  h.table_hash = hash_bytes(std::as_bytes(std::span(table)));
  TRY(f.file.append(table.data(), table.size() * sizeof(SectionRow)));
  h.file_bytes = f.file.size();
  TRY(f.file.write_at(0, &h, sizeof h));
  return h.table_hash;
}

Status PlanWriter::finish(const Plan& plan) {
  TRY(validate(plan));
  for (const Weight& w : plan.weights) {
    if (w.generator) continue;
    const File& f = files_.at(static_cast<size_t>(w.rank));
    CHECK(w.offset >= f.weights_begin && w.offset + w.bytes <= f.weights_end, "weight ", w.name, " was not appended");
  }
  const std::string text = internal::encode(plan);
  if (files_.size() > 1) {
    const Json belongs = {{"ranks", files_.size()}, {"plan", hash_bytes(as_bytes(text))}};
    Json parts = Json::array();
    for (size_t r = 1; r < files_.size(); ++r) {
      Json part = belongs;
      part["rank"] = r;
      TRY(add_section(files_[r], kPartSection, dump_json(part)));
      const uint64_t hash = TRY(close(files_[r]));
      parts.push_back({{"file", base_name(files_[r].path)}, {"bytes", files_[r].file.size()}, {"table_hash", hash}});
    }
    TRY(section(kRanksSection, dump_json(parts)));
  }
  TRY(section("plan", text));
  TRY(close(files_[0]));
  for (size_t r = files_.size(); r-- > 0;) TRY(files_[r].file.finish());
  return {};
}

namespace {

struct Table {
  FileHeader header{};
  std::map<std::string, std::span<const std::byte>, std::less<>> sections;
};

Result<Table> read_table(std::span<const std::byte> bytes, std::string_view what, bool check_hashes) {
  Table t;
  t.header = TRY(read_header(bytes, what));
  const std::span<const std::byte> table = bytes.subspan(t.header.table_offset, t.header.sections * sizeof(SectionRow));
  if (check_hashes && hash_bytes(table) != t.header.table_hash) return damaged(what, cat("section table at byte ", t.header.table_offset, " does not match its hash"));
  for (uint32_t i = 0; i < t.header.sections; ++i) {
    SectionRow row;
    std::memcpy(&row, table.data() + i * sizeof row, sizeof row);
    const std::string name(row.name, strnlen(row.name, sizeof row.name));
    if (row.offset > bytes.size() || row.bytes > bytes.size() - row.offset)
      return damaged(what, cat("section '", name, "' at byte ", row.offset, " with ", row.bytes, " bytes does not fit in the file's ", bytes.size()));
    const bool known = is_required(name) || name == kConfigSection || name == kTokenizerSection || name == kQualitySection;
    if (!known && (row.flags & kRequired)) return Error(Code::kUnsupported, cat("engine ", what, " needs section '", name, "', which this version does not know: take a later one"));
    const std::span<const std::byte> content = bytes.subspan(row.offset, row.bytes);
    if (check_hashes && name != "weights" && hash_bytes(content) != row.hash) return damaged(what, cat("section '", name, "' at byte ", row.offset, " does not match its hash"));
    if (!t.sections.emplace(name, content).second) return damaged(what, cat("section '", name, "' stands twice in the table"));
  }
  return t;
}

Result<std::vector<PartFile>> read_parts(std::string_view text, std::string_view what) {
  const Json list = TRY(parse_json(text, what, 4));
  if (!list.is_array() || list.empty() || list.size() >= static_cast<size_t>(kMaxRanks))
    return Error(Code::kInvalidArgument, cat(what, " is ", json_type(list), " of ", list.size(), ", want an array of 1 .. ", kMaxRanks - 1, " files"));
  std::vector<PartFile> parts;
  for (const Json& e : list) {
    PartFile p;
    p.name = TRY(get<std::string>(e, "file", what));
    p.bytes = TRY(get<uint64_t>(e, "bytes", what));
    p.table_hash = TRY(get<uint64_t>(e, "table_hash", what));
    if (p.name.empty() || p.name.find('/') != p.name.npos || p.name.find('\0') != p.name.npos)
      return Error(Code::kInvalidArgument, cat(what, ": file '", p.name, "' is no name without a folder"));
    parts.push_back(std::move(p));
  }
  return parts;
}

// Whether weight `w` stands in the weights section of its file, bytes begin .. end.
Status check_place(const Weight& w, uint64_t begin, uint64_t end, std::string_view what) {
  if (w.offset >= begin && w.offset <= end && w.bytes <= end - w.offset && w.offset % kSmallAlignment == 0) return {};
  return damaged(what, cat("weight '", w.name, "' at byte ", w.offset, " with ", w.bytes, " bytes does not stand, 64-byte aligned, in the weights section, bytes ", begin, " .. ", end));
}

Status check_places(const Plan& plan, int rank, std::span<const std::byte> file, std::span<const std::byte> weights, std::string_view what) {
  const uint64_t begin = static_cast<uint64_t>(weights.data() - file.data()), end = begin + weights.size();
  for (const Weight& w : plan.weights)
    if (!w.generator && w.rank == rank) TRY(check_place(w, begin, end, what));
  return {};
}

}  // namespace

Result<ParsedPlan> parse_plan(std::span<const std::byte> bytes, std::string_view what, bool check_hashes) {
  Table t = TRY(read_table(bytes, what, check_hashes));
  ParsedPlan parsed;
  parsed.version = t.header.version;
  parsed.sections = std::move(t.sections);
  if (parsed.sections.count(kPartSection))
    return Error(Code::kInvalidArgument, cat("engine ", what, " holds weights of a further rank alone: open its folder, or the file of rank 0"));
  auto plan = parsed.sections.find("plan"), weights = parsed.sections.find("weights");
  if (plan == parsed.sections.end() || weights == parsed.sections.end())
    return damaged(what, cat("has no section '", plan == parsed.sections.end() ? "plan" : "weights", "'"));
  if (auto ranks = parsed.sections.find(kRanksSection); ranks != parsed.sections.end())
    parsed.parts = TRY(read_parts(as_text(ranks->second), cat("engine ", what, ", section ranks")));
  parsed.plan = TRY(internal::decode(as_text(plan->second), cat("engine ", what, ", section plan")));
  for (const Weight& w : parsed.plan.weights)
    if (w.rank < 0 || static_cast<size_t>(w.rank) > parsed.parts.size())
      return damaged(what, cat("weight '", w.name, "' belongs to rank ", w.rank, " of ", parsed.parts.size() + 1));
  TRY(check_places(parsed.plan, 0, bytes, weights->second, what));
  if (Status s = validate(parsed.plan); !s.ok()) return s.error().in(cat("engine ", what));
  return parsed;
}

Result<PlanFile> PlanFile::open(const std::string& path) {
  PlanFile f;
  f.file_ = TRY(MappedFile::open(path));
  f.parsed_ = TRY(parse_plan(f.file_.bytes(), path));
  for (size_t i = 0; i < f.parsed_.parts.size(); ++i) {
    const PartFile& part = f.parsed_.parts[i];
    const std::string beside = join_path(parent_directory(path), part.name);
    Result<MappedFile> mapped = MappedFile::open(beside);
    if (!mapped.ok()) return mapped.error().in(cat("engine ", path, ", rank ", i + 1, " of ", f.parsed_.parts.size() + 1));
    const Table t = TRY(read_table(mapped->bytes(), beside, true));
    auto weights = t.sections.find("weights");
    if (mapped->bytes().size() != part.bytes || t.header.table_hash != part.table_hash || weights == t.sections.end())
      return Error(Code::kInvalidArgument, cat("engine ", beside, " is of another build than ", path, ": copy the files of all ranks together"));
    TRY(check_places(f.parsed_.plan, static_cast<int>(i) + 1, mapped->bytes(), weights->second, beside));
    f.parts_.push_back(std::move(*mapped));
  }
  return f;
}

uint64_t PlanFile::size() const {
  uint64_t bytes = file_.bytes().size();
  for (const MappedFile& p : parts_) bytes += p.bytes().size();
  return bytes;
}

std::string engine_in(const std::string& folder) {
  const Result<std::vector<std::string>> names = list_directory(folder);
  std::string found;
  if (!names.ok()) return found;
  for (const std::string& name : *names) {
    if (name == "rank0.engine") return join_path(folder, name);
    if (!name.ends_with("_rank0.engine")) continue;
    if (!found.empty()) return "";
    found = join_path(folder, name);
  }
  return found;
}

std::string_view PlanFile::section(std::string_view name) const {
  auto it = parsed_.sections.find(name);
  return it == parsed_.sections.end() ? std::string_view() : as_text(it->second);
}

std::span<const std::byte> PlanFile::weight_bytes(size_t i) const {
  const Weight& w = parsed_.plan.weights[i];
  if (w.generator) return {};
  const MappedFile& file = w.rank == 0 ? file_ : parts_[static_cast<size_t>(w.rank) - 1];
  return file.bytes().subspan(w.offset, w.bytes);
}

Status PlanFile::verify_weights() const {
  for (size_t i = 0; i < parsed_.plan.weights.size(); ++i) {
    const Weight& w = parsed_.plan.weights[i];
    if (w.generator) continue;
    if (const uint64_t found = hash_bytes(weight_bytes(i)); found != w.hash)
      return damaged(path(), cat("weight '", w.name, "' at byte ", w.offset, " has hash ", found, ", want ", w.hash, ": the file is damaged, build it again"));
  }
  return {};
}

}  // namespace ingot::plan
