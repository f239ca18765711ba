// The engine file: written as a stream in constant memory, read by mapping. Bytes: docs/plan_format.md.
//
//   PlanWriter w = TRY(PlanWriter::create(path));
//   PlacedBytes at = TRY(w.append_weight(packed));  weight.offset = at.offset; ...
//   TRY(w.section("tokenizer", blob));  TRY(w.finish(plan));
//
//   PlanFile f = TRY(PlanFile::open(path));  std::span<const std::byte> bytes = f.weight_bytes(3);
//
// A damaged or hostile file is an error that names the place; nothing of it is used before it is checked. Weight bytes are hashed only
// by verify_weights(): opening touches the metadata alone.
//
// Thread rule: an open PlanFile may be read from any thread; a PlanWriter belongs to one thread.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "plan/plan.h"

namespace ingot::plan {

inline constexpr uint32_t kFormatVersion = 1;

// Sections beside "plan" and "weights". Others are allowed and ignored by readers that do not know them.
inline constexpr const char* kConfigSection = "config";        // JSON {version, pretrained_config, build_config}
inline constexpr const char* kTokenizerSection = "tokenizer";  // sealed form of `text`
inline constexpr const char* kQualitySection = "quality";      // JSON, quality report of the quantisation

struct PlacedBytes {
  uint64_t offset = 0, bytes = 0, hash = 0;
};

class PlanWriter {
 public:
  static Result<PlanWriter> create(const std::string& path);
  Result<PlacedBytes> append_weight(std::span<const std::byte> bytes);  // 4 KiB aligned; small ones 64
  Status section(std::string_view name, std::string_view bytes);        // after the last weight; names up to 16 bytes, once each
  Status finish(const Plan& plan);                                      // validates, then renames the file into place
  uint64_t size() const { return file_.size(); }

 private:
  explicit PlanWriter(FileWriter file) : file_(std::move(file)) {}
  struct Section {
    std::string name;
    PlacedBytes place;
  };
  FileWriter file_;
  std::vector<Section> sections_;
  uint64_t weights_begin_ = 0, weights_end_ = 0;
};

// The checked content of an engine file's bytes, which it points into.
struct ParsedPlan {
  Plan plan;
  uint32_t version = 0;
  std::map<std::string, std::span<const std::byte>, std::less<>> sections;
};

// `what` names the source in messages. Section hashes are compared unless `check_hashes` is false (fuzzing).
Result<ParsedPlan> parse_plan(std::span<const std::byte> bytes, std::string_view what, bool check_hashes = true);

class PlanFile {
 public:
  static Result<PlanFile> open(const std::string& path);
  const std::string& path() const { return file_.path(); }
  const Plan& plan() const { return parsed_.plan; }
  uint32_t version() const { return parsed_.version; }
  std::string_view section(std::string_view name) const;  // "" when absent
  std::span<const std::byte> weight_bytes(size_t i) const;
  uint64_t size() const { return file_.bytes().size(); }
  // Reads every weight and compares its hash; the error names the first damaged one.
  Status verify_weights() const;

 private:
  MappedFile file_;
  ParsedPlan parsed_;
};

}  // namespace ingot::plan
