// The distances of a step of k-means++ that must be computed exactly (seeding.hpp).
//
// Let p be an approximate product with |p - x_i.c_t| <= e, and r = 4 (d + 4) u (|x_i|^2 + |c_t|^2), which is
// twice the float64 rounding error of d_it and the limit below which d_it becomes 0. With m = e + 2 r and the
// gain
//
//   g = p - |c_t|^2 / 2 - (|x_i|^2 - closest[i]) / 2,
//
// the computed d_it lies between closest[i] - 2 (g + m) and closest[i] - 2 (g - m), or is 0 if the first of
// them is not positive. Hence:
//
// 1. If g + m < 0, then d_it is larger than closest[i], which is the distance.
//
// 2. Otherwise candidate t lowers the potential by at least max(0, 2 (g - m)) for this row, and by at most
//    min(closest[i], 2 (g + m)). The sums of these bounds over all rows show which candidates may be the
//    best.
//
// The products p are those of rows rounded to bfloat16, y_i (rounded_rows.hpp), and of candidates b_t as the
// scorer holds them (candidate_scorer.hpp). By the Cauchy-Schwarz inequality,
//
//   e = |x_i - y_i| |c| + |y_i| |c - b| + gamma (|y_i| |c| + |c|^2 / 2) + underflow,
//
// with the largest |c| and |c - b| of all candidates, and gamma for the roundings of float32. Everything is
// computed for rows and candidates that are multiplied by the scale of the rounded rows.
#pragma once

#include <cstdint>
#include <vector>

#include "candidate_scorer.hpp"
#include "rounded_rows.hpp"

namespace medvlad {

// A row of a task and a candidate, whose distance must be computed exactly.
struct Left {
  std::int32_t row, t;
};

class SeedingFilter {
 public:
  // norms (n) and closest (n) of the rows; `candidates` are numbers of rows. All must outlive the filter.
  SeedingFilter(const RowsOf& from, const RoundedRows& rounded, CandidateScorer& scorer, const double* norms,
                const std::int64_t* candidates, std::int64_t n_candidates, const double* closest);

  // What is known after the first pass over some rows: bounds on what each candidate takes from the
  // potential, for rows that are multiplied by the scale, and what there is to take.
  struct Gains {
    explicit Gains(std::int64_t n_candidates)
        : least(static_cast<std::size_t>(n_candidates)), most(static_cast<std::size_t>(n_candidates)) {}

    std::vector<double> least, most;
    double total = 0.0;

    void add(const Gains& other);
  };

  // Memory of one thread.
  struct Buffer {
    std::vector<float> products, thresholds;
    std::vector<double> bases, margins;
  };

  // Add the pairs of rows [begin, end) and candidates that are left to `left`, in order, and their gains.
  // Rows are counted from `begin`.
  void list(std::int64_t begin, std::int64_t end, Buffer& buffer, std::vector<Left>& left,
            Gains& gains) const;

  // Whether each candidate may have the least potential. `gains` are those of all n rows.
  std::vector<bool> contenders(const Gains& gains) const;

 private:
  const RowsOf& from_;
  const RoundedRows& rounded_;
  const CandidateScorer& scorer_;
  const double* norms_;
  const double* closest_;
  std::int64_t n_candidates_;
  std::vector<float> half_norms_;
  double squared_scale_, max_norm_ = 0.0, half_norm_ = 0.0, lost_ = 0.0;
};

// The share r of |x|^2 + |c|^2: bound on the rounding of a distance, times 2.
inline double rounding_share(std::int64_t d) { return 4.0 * (static_cast<double>(d) + 4.0) * 0x1p-53; }

}  // namespace medvlad
