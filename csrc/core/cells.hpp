// The cells of one image: which rows fell into each, and the residual V_k = sum x - n_k c_k of each; or,
// where rows have weights, V_k = sum w (x - c_k).
//
// Rows of a cell are summed in their order, in float64, so a sum depends on nothing but the cell's rows: not
// on threads, blocks or instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "decide.hpp"

namespace medvlad {

// Rows ordered by label. Cells without rows are left out.
class Cells {
 public:
  void sort(const std::int32_t* labels, std::int64_t n, std::int64_t k);

  // A row is in `per_row` cells, with a weight in each: labels and weights are (n, per_row). A weight of 0 is
  // no membership.
  void sort(const std::int32_t* labels, const double* weights, std::int64_t n, std::int64_t per_row,
            std::int64_t k);

  std::int64_t filled() const { return static_cast<std::int64_t>(index.size()); }
  std::int64_t count(std::int64_t i) const { return begin(i + 1) - begin(i); }
  const std::int64_t* rows(std::int64_t i) const { return rows_.data() + begin(i); }
  bool weighted() const { return weighted_; }
  const double* weights(std::int64_t i) const { return weights_.data() + begin(i); }
  // Sum of the weights of a cell.
  double mass(std::int64_t i) const;

  std::vector<std::int32_t> index;  // centre of each cell, ascending

 private:
  std::int64_t begin(std::int64_t i) const { return begin_[static_cast<std::size_t>(i)]; }

  std::vector<std::int64_t> begin_;  // filled() + 1 positions in rows_
  std::vector<std::int64_t> rows_;
  std::vector<std::int64_t> next_;
  bool weighted_ = false;
  std::vector<double> weights_;
};

// Writes the residual of cell i of the image at x to v (d), before any normalisation; returns |v|^2.
double residual(const Cells& cells, std::int64_t i, const float* x, const CenterSet& set, double* v);

// |v|^2 in lanes of fixed order, the same on every instruction set.
double squared_norm(const double* v, std::int64_t d);

}  // namespace medvlad
