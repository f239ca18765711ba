#include "plan/plan_file.h"

#include <cstring>

#include "plan/hash.h"
#include "plan/internal/codec.h"

namespace ingot::plan {
namespace {

constexpr char kMagic[8] = {'I', 'N', 'G', 'O', 'T', 'E', 'N', 'G'};
constexpr size_t kWeightAlignment = 4096, kSmallAlignment = 64;
constexpr uint32_t kMaxSections = 64;
constexpr uint32_t kRequired = 1;  // flag: a reader that does not know the section must refuse the file

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

Result<PlanWriter> PlanWriter::create(const std::string& path) {
  PlanWriter w(TRY(FileWriter::create(path)));
  const FileHeader zero{};
  TRY(w.file_.append(&zero, sizeof zero));  // patched by finish()
  TRY(w.file_.pad_to(kWeightAlignment));
  w.weights_begin_ = w.weights_end_ = w.file_.size();
  return w;
}

Result<PlacedBytes> PlanWriter::append_weight(std::span<const std::byte> bytes) {
  CHECK(sections_.empty(), "weights come before sections");
  TRY(file_.pad_to(bytes.size() >= kWeightAlignment ? kWeightAlignment : kSmallAlignment));
  const PlacedBytes place{file_.size(), bytes.size(), hash_bytes(bytes)};
  TRY(file_.append(bytes.data(), bytes.size()));
  weights_end_ = file_.size();
  return place;
}

Status PlanWriter::section(std::string_view name, std::string_view bytes) {
  CHECK(!name.empty() && name.size() <= sizeof SectionRow::name, "section name ", name);
  for (const Section& s : sections_) CHECK(s.name != name, "section ", name, " twice");
  TRY(file_.pad_to(kSmallAlignment));
  sections_.push_back({std::string(name), {file_.size(), bytes.size(), hash_bytes(as_bytes(bytes))}});
  return file_.append(bytes.data(), bytes.size());
}

Status PlanWriter::finish(const Plan& plan) {
  TRY(validate(plan));
  for (const Weight& w : plan.weights)
    CHECK(w.generator || (w.offset >= weights_begin_ && w.offset + w.bytes <= weights_end_), "weight ", w.name, " was not appended");
  TRY(section("plan", internal::encode(plan)));
  sections_.push_back({"weights", {weights_begin_, weights_end_ - weights_begin_, 0}});
  TRY(file_.pad_to(kSmallAlignment));
  std::vector<SectionRow> table;
  for (const Section& s : sections_) {
    SectionRow row{};
    std::memcpy(row.name, s.name.data(), s.name.size());
    row.offset = s.place.offset;
    row.bytes = s.place.bytes;
    row.hash = s.place.hash;
    row.flags = s.name == "plan" || s.name == "weights" ? kRequired : 0;
    table.push_back(row);
  }
  FileHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kFormatVersion;
  h.header_bytes = sizeof h;
  h.table_offset = file_.size();
  h.sections = static_cast<uint32_t>(table.size());
  const size_t table_bytes = table.size() * sizeof(SectionRow);
  h.table_hash = hash_bytes(std::as_bytes(std::span(table)));
  TRY(file_.append(table.data(), table_bytes));
  h.file_bytes = file_.size();
  TRY(file_.write_at(0, &h, sizeof h));
  return file_.finish();
}

Result<ParsedPlan> parse_plan(std::span<const std::byte> bytes, std::string_view what, bool check_hashes) {
  const FileHeader h = TRY(read_header(bytes, what));
  const std::span<const std::byte> table = bytes.subspan(h.table_offset, h.sections * sizeof(SectionRow));
  if (check_hashes && hash_bytes(table) != h.table_hash) return damaged(what, cat("section table at byte ", h.table_offset, " does not match its hash"));
  ParsedPlan parsed;
  parsed.version = h.version;
  for (uint32_t i = 0; i < h.sections; ++i) {
    SectionRow row;
    std::memcpy(&row, table.data() + i * sizeof row, sizeof row);
    const std::string name(row.name, strnlen(row.name, sizeof row.name));
    if (row.offset > bytes.size() || row.bytes > bytes.size() - row.offset)
      return damaged(what, cat("section '", name, "' at byte ", row.offset, " with ", row.bytes, " bytes does not fit in the file's ", bytes.size()));
    const bool known = name == "plan" || name == "weights" || name == kConfigSection || name == kTokenizerSection || name == kQualitySection;
    if (!known && (row.flags & kRequired)) return Error(Code::kUnsupported, cat("engine ", what, " needs section '", name, "', which this version does not know: take a later one"));
    const std::span<const std::byte> content = bytes.subspan(row.offset, row.bytes);
    if (check_hashes && name != "weights" && hash_bytes(content) != row.hash) return damaged(what, cat("section '", name, "' at byte ", row.offset, " does not match its hash"));
    if (!parsed.sections.emplace(name, content).second) return damaged(what, cat("section '", name, "' stands twice in the table"));
  }
  auto plan = parsed.sections.find("plan"), weights = parsed.sections.find("weights");
  if (plan == parsed.sections.end() || weights == parsed.sections.end())
    return damaged(what, cat("has no section '", plan == parsed.sections.end() ? "plan" : "weights", "'"));
  parsed.plan = TRY(internal::decode(as_text(plan->second), cat("engine ", what, ", section plan")));
  const uint64_t begin = static_cast<uint64_t>(weights->second.data() - bytes.data()), end = begin + weights->second.size();
  for (const Weight& w : parsed.plan.weights)
    if (!w.generator && (w.offset < begin || w.offset > end || w.bytes > end - w.offset || w.offset % kSmallAlignment))
      return damaged(what, cat("weight '", w.name, "' at byte ", w.offset, " with ", w.bytes, " bytes does not stand, 64-byte aligned, in the weights section, bytes ", begin, " .. ", end));
  if (Status s = validate(parsed.plan); !s.ok()) return s.error().in(cat("engine ", what));
  return parsed;
}

Result<PlanFile> PlanFile::open(const std::string& path) {
  PlanFile f;
  f.file_ = TRY(MappedFile::open(path));
  f.parsed_ = TRY(parse_plan(f.file_.bytes(), path));
  return f;
}

std::string_view PlanFile::section(std::string_view name) const {
  auto it = parsed_.sections.find(name);
  return it == parsed_.sections.end() ? std::string_view() : as_text(it->second);
}

std::span<const std::byte> PlanFile::weight_bytes(size_t i) const {
  const Weight& w = parsed_.plan.weights[i];
  if (w.generator) return {};
  return file_.bytes().subspan(w.offset, w.bytes);
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
