// Limits of an engine from the runtime it will drive.
//
//   fit_to_runtime(*runtime, options);
//   auto engine = TRY(Engine::create(options, std::move(runtime), tokenizer));
//
// Thread rule: a function of its arguments.
#pragma once

#include "engine/engine.h"
#include "runtime/runtime.h"

namespace ingot::engine {

// Sets the limits among options.scheduler (tokens, sequences, pages, logits, state rows) and rope_regime_above; leaves policy,
// queue and the other choices alone.
void fit_to_runtime(const runtime::Runtime& runtime, EngineOptions& options);

}  // namespace ingot::engine
