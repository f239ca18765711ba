// The input tensors of the LLM surfaces as tables: configs, aliases, refusals and the warnings about unknown names come from them.
//
//   for (const InputRow& row : llm_inputs()) if (row.surfaces & surface_bit(surface)) config.input.push_back(...);
//   for (std::string_view name : llm_spellings("top_k")) ...       // "top_k", "runtime_top_k"
//   TRY(check_inputs(request, surface, warning));                  // what cannot be obeyed is an error that names it
//
// Thread rule: constant tables, pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "backends/llm.h"
#include "server/infer.h"

namespace ingot::backends {

enum class Use : uint8_t {
  kObeyed,
  kIdle,     // accepted: nothing here depends on it
  kRefused,  // an error, unless the value says nothing (empty, zero, the neutral one)
};

struct InputRow {
  const char* name;
  server::DataType type;
  const char* dims;   // "1", "-1", "2,-1"
  uint8_t surfaces;   // of the config: bits of surface_bit()
  Use use = Use::kObeyed;
  const char* why = "";  // of a refusal
  double neutral = 0;
};

constexpr uint8_t surface_bit(LlmSurface s) { return static_cast<uint8_t>(1u << static_cast<int>(s)); }

std::span<const InputRow> llm_inputs();

// A second name of an argument, from another surface or an older release.
struct Alias {
  const char* alias;
  const char* name;
};
std::span<const Alias> llm_aliases();

// Errors name the first input or parameter that asks for what is not built. `warning` gets one sentence about each parameter whose name
// nothing knows (with the nearest name), "" if there is none.
Status check_inputs(const server::InferRequest& request, LlmSurface surface, std::string& warning);

}  // namespace ingot::backends
