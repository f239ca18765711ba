// embedding: y = table[index + offset] * scale. Indices beyond the table (rows of a request's own embeddings) are the device's matter.
#include "op/internal/rules.h"

namespace ingot::op {
namespace {

Result<std::vector<Type>> shape(const ShapeCall& c) {
  if (!c.in[0].integer || c.in[0].width != 1) return bad_input(c, 0, "[T, 1] i32");
  TRY(want_nonzero(c, "scale"));
  TRY(want_at_least(c, "offset", 0));
  if (c.weights[0].experts != 0) return bad_weight(c, 0, {0, c.weights[0].n, c.weights[0].k}, "a table [V, E]");
  return std::vector<Type>{{c.in[0].rows, c.weights[0].k, false}};
}

void run(const Call& c, std::vector<Matrix>& out) {
  const WeightValues& table = *c.weights[0];
  Matrix& y = out[0] = Matrix(c.in[0]->rows, table.shape.k);
  for (int64_t t = 0; t < y.rows; ++t) {
    const int64_t id = static_cast<int64_t>(c.in[0]->row(t)[0]) + c.attrs.offset;
    CHECK(id >= 0 && id < table.shape.n, "embedding row ", id, " of ", table.shape.n);
    for (int64_t e = 0; e < y.width; ++e) y.row(t)[e] = table.row(id)[e] * c.attrs.scale;
  }
}

}  // namespace

const Rule kEmbeddingRule{Op::kEmbedding, shape, run};

}  // namespace ingot::op
