// Fusion passes: rewrites of a graph that change no value. Each is legal by the reference of its op (the tests compare both sides).
//
//   TRY(graph::run_passes(g, build_passes(), {.skip = options.skip_pass}));
//
// Thread rule: pure functions on a graph of their own.
#pragma once

#include <span>

#include "graph/graph.h"

namespace ingot::build {

// In order:
//   fuse_qkv            linears of one input, each read by what a slice can serve -> one linear and slices
//   fuse_gate_up        gated(linear(x), linear(x)) without bias -> gated_linear(x), rows of fc, then of gate
//   early_last_token    rows whose logits are not wanted leave before the last row-wise ops instead of after them
//   fuse_add_norm       rms_norm(add(x, r)) over the whole row -> add_rms_norm
std::span<const graph::Pass> build_passes();

}  // namespace ingot::build
