// Shards: which part of each tensor of a one-rank unified checkpoint a tensor- and pipeline-parallel rank holds, in both directions.
//
//   TRY(check_sharding(config, /*tp=*/4, /*pp=*/2));
//   if (auto s = TRY(shard_of(config, info, mapping, rank))) TRY(take(*s, view, bytes));     // full tensor -> the rank's
//   auto joined = TRY(JoinedCheckpoint::open("tllm_checkpoint_4gpu"));                       // the ranks as one rank's tensors
//
// Rules (TensorRT-LLM's): qkv, fc, gate and the head split by rows, dense and proj by columns; their biases stay on tensor rank 0; key and
// value heads are repeated where there are fewer than ranks; the head is padded to a multiple of the ranks;
// use_parallel_embedding splits the table likewise, or by columns; everything else is repeated.
// Thread rule: pure functions; JoinedCheckpoint as TensorSource.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "checkpoint/checkpoint.h"

namespace ingot::convert {

// An error for heads, widths or layers that do not divide: "num_attention_heads (28) is not divisible by tp_size (8)".
Status check_sharding(const checkpoint::CheckpointConfig& config, int tp_size, int pp_size);

struct Shard {
  struct Rows {
    int64_t from, to, count;  // rows of the full tensor, rows of the rank's
  };
  std::string name;           // of the rank's tensor: layers are numbered from 0 on each pipeline rank
  Shape shape;
  std::vector<Rows> rows;     // absent rows of the rank's tensor are zero
  int64_t column_begin = 0, columns = 0;  // stored elements of a row
  int64_t full_width = 0;
};

// nothing: the rank does not hold it. `info`: of the one-rank checkpoint.
Result<std::optional<Shard>> shard_of(const checkpoint::CheckpointConfig& config, const formats::TensorInfo& info, const checkpoint::Mapping& mapping,
                                      int rank);
// Bytes of the rank's tensor from the full one, and back (rows that the shard does not hold stay as they are).
Status take(const Shard& shard, const View& full, std::span<std::byte> out);
Status put(const Shard& shard, const View& part, std::span<std::byte> full);

// A unified checkpoint of any mapping as the tensors of one rank.
class JoinedCheckpoint : public formats::TensorSource {
 public:
  static Result<std::unique_ptr<JoinedCheckpoint>> open(const std::string& directory);
  const checkpoint::CheckpointConfig& config() const { return config_; }  // world_size 1
  const checkpoint::Mapping& stored_mapping() const { return checkpoint_->config().mapping; }

  formats::SourceKind kind() const override { return formats::SourceKind::kSafetensors; }
  const std::string& path() const override { return checkpoint_->directory(); }
  std::span<const formats::TensorInfo> list() const override { return infos_; }
  const formats::TensorInfo* info(std::string_view name) const override;
  Result<View> find(std::string_view name) const override;
  void forget(std::string_view name) const override;

 private:
  std::unique_ptr<checkpoint::Checkpoint> checkpoint_;
  checkpoint::CheckpointConfig config_, sharded_;  // of one rank; as stored
  std::vector<formats::TensorInfo> infos_;
  std::map<std::string, size_t, std::less<>> index_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::vector<std::byte>, std::less<>> made_;
};

}  // namespace ingot::convert
