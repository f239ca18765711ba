// PyTorch checkpoints (`torch.save` of a state dict: zip or legacy form) and Meta's consolidated.NN.pth, read without executing anything.
//
//   auto source = TRY(open_torch("pytorch_model.bin"));
//   auto llama = TRY(open_meta({"consolidated.00.pth", "consolidated.01.pth"}, "llama-2-13b"));
//
// Thread rule: as TensorSource.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/source.h"

namespace ingot::formats {

bool looks_like_torch(std::span<const std::byte> head);  // a zip, or a pickle with the legacy magic number

// Contiguous tensors of stored zip entries are borrowed; strided, expanded or deflated ones are made. Globals and opcodes beyond tensors
// and plain containers are errors that name them. Nested dicts give dotted names.
Result<std::unique_ptr<TensorSource>> open_torch(const std::string& path);
// Several files with disjoint names; `path` names the whole in messages.
Result<std::unique_ptr<TensorSource>> open_torch_shards(const std::vector<std::string>& files, const std::string& path);

// Meta's Llama files, one per model-parallel rank in order. Each tensor is joined along the axis by which fairscale split it: outputs for
// wq, wk, wv, w1, w3 and output; inputs for wo and w2; norms and rope.freqs are equal everywhere. tok_embeddings is split by hidden size
// (Llama 1 and 2) or by vocabulary (Llama 3), as the length of norm.weight tells.
Result<std::unique_ptr<TensorSource>> open_meta(const std::vector<std::string>& files, const std::string& path);

}  // namespace ingot::formats
