// Backends for tests of the protocols: no model, but every behaviour that a protocol can meet.
//
//   add_fake_models(server);     // registers the backends "fake_tensor" and "fake_llm" and loads their models
//
// Models: echo (tensors of all types), add_sub, classify, many (decoupled), blocked (waits until it is cancelled), broken (fails),
// llm (text_input or messages in, its words back one by one); and those of fake_batch.h, which batch, keep sequences and form ensembles. Thread rule: as server::Model says.
#pragma once

#include "server/server.h"

namespace ingot::test {

// Loads all fake models; `explicit_source` also makes them loadable by name.
Status add_fake_models(server::Server& server);

}  // namespace ingot::test
