// The tokenizer of a published model in its sealed form, wherever the model keeps it.
//
//   std::string sealed = TRY(sealed_tokenizer("llama3-8b", *source));   // "" when there is none
//
// Thread rule: free functions.
#pragma once

#include <string>

#include "formats/source.h"

namespace ingot::convert {

inline constexpr const char* kTokenizerFile = "tokenizer.ingot";  // beside a unified checkpoint's config.json

// From the GGUF file's own vocabulary, or the tokenizer files beside the weights. A model without any gives "": its engine speaks
// token ids only.
Result<std::string> sealed_tokenizer(const std::string& path, const formats::TensorSource& source);
// What convert left beside a unified checkpoint, or else the tokenizer files that lie there; "" when there are none.
Result<std::string> checkpoint_tokenizer(const std::string& directory);

}  // namespace ingot::convert
