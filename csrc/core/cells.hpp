// The cells of one image: the rows assigned to each centre, and the residual of each cell.
//
//   V_k = sum over x in cell k of x  -  n_k c_k                without weights
//   V_k = sum over x in cell k of w s (x - c_k)                with weights w and scales s
//
// The rows of a cell are added in their order, in float64. A residual therefore does not depend on the number
// of threads, the size of blocks or the instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "decide.hpp"

namespace medvlad {

// Rows ordered by label. Cells without rows are left out.
class Cells {
 public:
  void sort(const std::int32_t* labels, std::int64_t n, std::int64_t k);

  // Sort rows that belong to `per_row` cells each. Labels, weights and scales are (n, per_row). An entry of
  // weight 0 is ignored. If `scales` is null, every scale is 1.
  void sort(const std::int32_t* labels, const double* weights, const double* scales, std::int64_t n,
            std::int64_t per_row, std::int64_t k);

  std::int64_t filled() const { return static_cast<std::int64_t>(index.size()); }
  std::int64_t count(std::int64_t i) const { return begin(i + 1) - begin(i); }
  const std::int64_t* rows(std::int64_t i) const { return rows_.data() + begin(i); }
  bool weighted() const { return weighted_; }
  // Factors w s of the residuals of a cell.
  const double* factors(std::int64_t i) const { return factors_.data() + begin(i); }
  // Sum of the weights of a cell.
  double mass(std::int64_t i) const;
  // Sum of the absolute factors of a cell.
  double reach(std::int64_t i) const;

  std::vector<std::int32_t> index;  // centre of each cell, ascending

 private:
  std::int64_t begin(std::int64_t i) const { return begin_[static_cast<std::size_t>(i)]; }

  std::vector<std::int64_t> begin_;  // filled() + 1 positions in rows_
  std::vector<std::int64_t> rows_;
  std::vector<std::int64_t> next_;
  bool weighted_ = false;
  std::vector<double> factors_;
  std::vector<double> weights_;  // empty if every scale is 1, because the factors are the weights then
};

// Write the residual of cell i, before normalisation, to v (d) and return |v|^2. The image's rows begin at x.
double residual(const Cells& cells, std::int64_t i, const float* x, const CenterSet& set, double* v);

// |v|^2, summed in the fixed order of lanes64.hpp, so it is the same for every instruction set.
double squared_norm(const double* v, std::int64_t d);

}  // namespace medvlad
