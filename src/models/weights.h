// Recipes: how a tensor of the unified checkpoint is made from tensors of a published one, row by row, so that conversion streams.
//
//   WeightMap map(source);
//   map.copy("lm_head.weight", "lm_head.weight", {vocab, hidden}, "vocab_size, hidden_size");
//   for (const Recipe& r : map.take()) TRY(read_rows(r, source, 0, r.rows(), out));    // out: f32, r.rows() * r.width()
//
// Thread rule: values and pure functions.
#pragma once

#include <string>
#include <vector>

#include "formats/source.h"

namespace ingot::models {

struct RowRange {
  int64_t begin = 0, count = 0;
};
struct ColumnRange {
  int64_t begin = 0, step = 1, count = 0;
};

// Some rows (and columns) of one published tensor seen as a matrix [rows, width]: a vector is [n, 1], a matrix as it is, a stack
// [experts * rows, width].
struct Piece {
  std::string tensor;
  Shape shape;                        // as published
  std::string why;                    // where the shape comes from, for messages
  std::vector<RowRange> rows;         // in this order; empty: all
  std::vector<ColumnRange> columns;   // side by side; empty: all
  int64_t row_width = 0;              // 0: the last extent (1 of a vector)
  bool transpose = false;             // stored [width, rows] (Conv1D of GPT-2)
};

enum class Adjust {
  kNone,
  kAddOne,         // norms that scale by 1 + w
  kNormalizeRows,  // each row by its Euclidean length, at least 1e-12 (NormHead)
};

struct Recipe {
  std::string name;            // unified
  Shape shape;
  std::vector<Piece> pieces;   // rows of one after rows of the other
  Adjust adjust = Adjust::kNone;
  int64_t width() const;       // columns of a row; 1 for vectors
  int64_t rows() const { return shape.elements() / width(); }
  // Whether stored rows can be taken as they are, in their own number format (no adjusting, no columns, no transposition).
  bool row_wise() const;
  // Whether read_rows is only cheap for all rows at once.
  bool whole() const;
};

// Each piece's tensor exists with its shape, and the pieces fill the unified shape. The error names tensor, found, wanted, why.
Status check_recipe(const Recipe& recipe, const formats::TensorSource& source);
// Rows [begin, begin + count) as f32. The recipe must have passed check_recipe.
Status read_rows(const Recipe& recipe, const formats::TensorSource& source, int64_t begin, int64_t count, std::span<float> out);
// Where rows [begin, ...) of a row-wise recipe lie: which piece, which row of its tensor, how many follow on.
struct Run {
  const Piece* piece = nullptr;
  int64_t row = 0, count = 0;
};
std::vector<Run> runs(const Recipe& recipe, int64_t begin, int64_t count);

// Collects recipes; the frequent forms.
class WeightMap {
 public:
  explicit WeightMap(const formats::TensorSource& source) : source_(source) {}
  const formats::TensorSource& source() const { return source_; }
  bool has(std::string_view tensor) const { return source_.info(tensor) != nullptr; }

  Recipe& copy(std::string name, std::string tensor, const Shape& shape, std::string why);
  // name.weight (and .bias with `bias`) from tensor.weight (.bias): [out, in].
  void linear(const std::string& name, const std::string& tensor, int64_t out, int64_t in, bool bias, const std::string& why);
  // Stored [in, out]: Conv1D.
  void conv1d(const std::string& name, const std::string& tensor, int64_t out, int64_t in, const std::string& why);
  // name.weight: the rows of several tensors [out_i, in] (q, k, v).
  struct Part {
    std::string tensor;
    int64_t out;
    std::string why;
  };
  void stacked(const std::string& name, const std::vector<Part>& parts, int64_t in, bool bias);
  // name.weight (and .bias): rows of one fused tensor [out, in] in another order.
  void reordered(const std::string& name, const std::string& tensor, int64_t out, int64_t in, const std::vector<RowRange>& rows, bool bias,
                 const std::string& why);
  void norm(const std::string& name, const std::string& tensor, int64_t width, bool bias, Adjust adjust = Adjust::kNone);
  Recipe& add(Recipe recipe);
  std::vector<Recipe> take() { return std::move(recipes_); }

 private:
  const formats::TensorSource& source_;
  std::vector<Recipe> recipes_;
};

}  // namespace ingot::models
