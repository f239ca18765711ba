#include "models/weights.h"

#include <algorithm>
#include <cmath>

#include "tensor/convert.h"

namespace ingot::models {
namespace {

int64_t stored_width(const Piece& p) {
  if (p.row_width) return p.row_width;
  return p.shape.rank() < 2 ? 1 : p.shape[p.transpose ? 0 : -1];
}

int64_t stored_rows(const Piece& p) { return p.shape.elements() / stored_width(p); }

int64_t piece_rows(const Piece& p) {
  if (p.rows.empty()) return stored_rows(p);
  int64_t n = 0;
  for (const RowRange& r : p.rows) n += r.count;
  return n;
}

int64_t piece_width(const Piece& p) {
  if (p.columns.empty()) return stored_width(p);
  int64_t n = 0;
  for (const ColumnRange& c : p.columns) n += c.count;
  return n;
}

// Rows [row, row + count) of the stored tensor, columns picked.
Status read_stored(const Piece& p, const View& view, int64_t row, int64_t count, std::span<float> out) {
  const int64_t width = stored_width(p), rows = stored_rows(p);
  if (p.transpose) {
    std::vector<float> all(static_cast<size_t>(rows * width));
    TRY(to_float(view, all));
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < width; ++c) out[static_cast<size_t>(r * width + c)] = all[static_cast<size_t>(c * rows + row + r)];
    return {};
  }
  if (p.columns.empty()) return to_float(view, row * width, out);
  std::vector<float> stored(static_cast<size_t>(width));
  size_t at = 0;
  for (int64_t r = 0; r < count; ++r) {
    TRY(to_float(view, (row + r) * width, stored));
    for (const ColumnRange& c : p.columns)
      for (int64_t i = 0; i < c.count; ++i) out[at++] = stored[static_cast<size_t>(c.begin + i * c.step)];
  }
  return {};
}

}  // namespace

int64_t Recipe::width() const { return pieces.empty() ? 1 : piece_width(pieces[0]); }

bool Recipe::row_wise() const {
  if (adjust != Adjust::kNone) return false;
  return std::all_of(pieces.begin(), pieces.end(), [](const Piece& p) { return p.columns.empty() && !p.transpose; });
}

bool Recipe::whole() const {
  return std::any_of(pieces.begin(), pieces.end(), [](const Piece& p) { return p.transpose; });
}

Status check_recipe(const Recipe& r, const formats::TensorSource& source) {
  int64_t rows = 0;
  for (const Piece& p : r.pieces) {
    const formats::TensorInfo* info = source.info(p.tensor);
    if (!info) return Error(Code::kNotFound, cat("checkpoint ", source.path(), " has no tensor '", p.tensor, "' (wanted for ", r.name, ")"));
    if (!(info->shape == p.shape))
      return Error(Code::kInvalidArgument, cat("tensor '", p.tensor, "' in ", source.path(), " has shape ", str(info->shape), ", want ",
                                               str(p.shape), " (", p.why, " from config.json)"));
    if (!is_floating(info->dtype) && !is_gguf_block(info->dtype))
      return Error(Code::kInvalidArgument, cat("tensor '", p.tensor, "' in ", source.path(), " has type ", dtype_info(info->dtype).name, ", want a floating type or GGUF's blocks"));
    if (piece_width(p) != r.width())
      return Error(Code::kInternal, cat("recipe of ", r.name, ": '", p.tensor, "' gives width ", piece_width(p), ", want ", r.width()));
    for (const RowRange& range : p.rows)
      CHECK(range.begin >= 0 && range.count > 0 && range.begin + range.count <= stored_rows(p), "recipe of ", r.name, ", row ", range.begin);
    rows += piece_rows(p);
  }
  CHECK(rows * r.width() == r.shape.elements(), "recipe of ", r.name, " has ", rows, " rows of ", r.width(), ", want ", str(r.shape));
  return {};
}

std::vector<Run> runs(const Recipe& recipe, int64_t begin, int64_t count) {
  std::vector<Run> out;
  int64_t at = 0;  // unified row where the range under view begins
  const int64_t end = begin + count;
  const auto take = [&](const Piece& p, RowRange range) {
    const int64_t from = std::max(begin, at), to = std::min(end, at + range.count);
    if (from < to) {
      const int64_t row = range.begin + from - at;
      if (!out.empty() && out.back().piece == &p && out.back().row + out.back().count == row) out.back().count += to - from;
      else out.push_back({&p, row, to - from});
    }
    at += range.count;
  };
  for (const Piece& p : recipe.pieces) {
    if (at >= end) break;
    if (p.rows.empty()) take(p, {0, stored_rows(p)});
    for (const RowRange& range : p.rows) take(p, range);
  }
  return out;
}

Status read_rows(const Recipe& recipe, const formats::TensorSource& source, int64_t begin, int64_t count, std::span<float> out) {
  const int64_t width = recipe.width();
  CHECK(begin >= 0 && count >= 0 && begin + count <= recipe.rows() && static_cast<int64_t>(out.size()) == count * width, recipe.name);
  size_t at = 0;
  for (const Run& run : runs(recipe, begin, count)) {
    const View view = TRY(source.find(run.piece->tensor));
    const size_t n = static_cast<size_t>(run.count * width);
    if (Status s = read_stored(*run.piece, view, run.row, run.count, out.subspan(at, n)); !s)
      return s.error().in(cat("tensor '", run.piece->tensor, "' in ", source.path()));
    at += n;
  }
  if (recipe.adjust == Adjust::kAddOne)
    for (float& v : out) v += 1;
  if (recipe.adjust == Adjust::kNormalizeRows)
    for (int64_t r = 0; r < count; ++r) {
      const std::span<float> row = out.subspan(static_cast<size_t>(r * width), static_cast<size_t>(width));
      double sum = 0;
      for (float v : row) sum += double{v} * v;
      const double length = std::max(std::sqrt(sum), 1e-12);
      for (float& v : row) v = static_cast<float>(v / length);
    }
  return {};
}

Recipe& WeightMap::add(Recipe recipe) {
  recipes_.push_back(std::move(recipe));
  return recipes_.back();
}

Recipe& WeightMap::copy(std::string name, std::string tensor, const Shape& shape, std::string why) {
  Piece p;
  p.tensor = std::move(tensor);
  p.shape = shape;
  p.why = std::move(why);
  return add({std::move(name), shape, {std::move(p)}});
}

void WeightMap::linear(const std::string& name, const std::string& tensor, int64_t out, int64_t in, bool bias, const std::string& why) {
  copy(name + ".weight", tensor + ".weight", {out, in}, why);
  if (bias) copy(name + ".bias", tensor + ".bias", {out}, why);
}

void WeightMap::conv1d(const std::string& name, const std::string& tensor, int64_t out, int64_t in, const std::string& why) {
  Recipe& r = copy(name + ".weight", tensor + ".weight", {in, out}, why);
  r.shape = {out, in};
  r.pieces[0].transpose = true;
  copy(name + ".bias", tensor + ".bias", {out}, why);
}

void WeightMap::stacked(const std::string& name, const std::vector<Part>& parts, int64_t in, bool bias) {
  int64_t out = 0;
  Recipe weight, vector;
  for (const Part& part : parts) {
    out += part.out;
    Piece p;
    p.tensor = part.tensor + ".weight";
    p.shape = {part.out, in};
    p.why = part.why;
    weight.pieces.push_back(p);
    p.tensor = part.tensor + ".bias";
    p.shape = {part.out};
    vector.pieces.push_back(std::move(p));
  }
  weight.name = name + ".weight";
  weight.shape = {out, in};
  add(std::move(weight));
  if (!bias) return;
  vector.name = name + ".bias";
  vector.shape = {out};
  add(std::move(vector));
}

void WeightMap::reordered(const std::string& name, const std::string& tensor, int64_t out, int64_t in, const std::vector<RowRange>& rows,
                          bool bias, const std::string& why) {
  copy(name + ".weight", tensor + ".weight", {out, in}, why).pieces[0].rows = rows;
  if (bias) copy(name + ".bias", tensor + ".bias", {out}, why).pieces[0].rows = rows;
}

void WeightMap::norm(const std::string& name, const std::string& tensor, int64_t width, bool bias, Adjust adjust) {
  copy(name + ".weight", tensor + ".weight", {width}, "hidden_size").adjust = adjust;
  if (bias) copy(name + ".bias", tensor + ".bias", {width}, "hidden_size");
}

}  // namespace ingot::models
