// The engine file: written as a stream in constant memory, read by mapping. Bytes: docs/plan_format.md.
//
//   PlanWriter w = TRY(PlanWriter::create(path));
//   PlacedBytes at = TRY(w.append_weight(packed));  weight.offset = at.offset; ...
//   TRY(w.section("tokenizer", blob));  TRY(w.finish(plan));
//
//   PlanFile f = TRY(PlanFile::open(path));  std::span<const std::byte> bytes = f.weight_bytes(3);
//
// An engine of several ranks is the file of rank 0, which holds the plan, and one file for each further rank, which holds weights alone. Open
// rank 0's: it names the others, which stand beside it, and refuses those of another build.
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
inline constexpr const char* kRanksSection = "ranks";          // JSON, rank 0 of several: the files of the others
inline constexpr const char* kPartSection = "part";            // JSON, the others: which plan their weights belong to
inline constexpr int kMaxRanks = 1024;

struct PlacedBytes {
  uint64_t offset = 0, bytes = 0, hash = 0;
};

class PlanWriter {
 public:
  static Result<PlanWriter> create(const std::string& path) { return create(std::vector<std::string>{path}); }
  static Result<PlanWriter> create(const std::vector<std::string>& paths);  // of the ranks, all in one folder
  Result<PlacedBytes> append_weight(std::span<const std::byte> bytes, int rank = 0);  // 4 KiB aligned; small ones 64
  Status section(std::string_view name, std::string_view bytes);        // after the last weight; names up to 16 bytes, once each
  Status finish(const Plan& plan);                                      // validates, then renames the files into place, rank 0's last
  uint64_t size() const;                                                // of all files
  uint64_t size(int rank) const { return files_[static_cast<size_t>(rank)].file.size(); }

 private:
  PlanWriter() = default;
  struct Section {
    std::string name;
    PlacedBytes place;
  };
  struct File {
    std::string path;
    FileWriter file;
    std::vector<Section> sections;
    uint64_t weights_begin = 0, weights_end = 0;
  };
  static Status add_section(File& f, std::string_view name, std::string_view bytes);
  static Result<uint64_t> close(File& f);  // table and header; the table's hash
  std::vector<File> files_;
};

// A further rank's file as rank 0's file names it.
struct PartFile {
  std::string name;  // without folder
  uint64_t bytes = 0, table_hash = 0;
};

// The checked content of an engine file's bytes, which it points into.
struct ParsedPlan {
  Plan plan;
  uint32_t version = 0;
  std::vector<PartFile> parts;  // of the ranks from 1 on
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
  uint64_t size() const;  // of all ranks' files
  int ranks() const { return static_cast<int>(parts_.size()) + 1; }
  // Reads every weight and compares its hash; the error names the first damaged one.
  Status verify_weights() const;

 private:
  MappedFile file_;
  std::vector<MappedFile> parts_;
  ParsedPlan parsed_;
};

// The engine file to open in a folder: the one of rank 0, "rank0.engine" or "<model>_<dtype>_tp<T>_rank0.engine" (0.5 to 0.7). "" when there
// is none, or more than one model's.
std::string engine_in(const std::string& folder);

}  // namespace ingot::plan
