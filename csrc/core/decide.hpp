// The exact nearest centre among a few candidates, and the error bounds that choose the candidates.
//
// The nearest centre of x has the largest score s_k = x.c_k - |c_k|^2 / 2. A fast pass in float32 computes
// the scores with an error of at most
//
//   e = gamma_m (|x| max|c| + max|c|^2 / 2) + underflow,   gamma_m = m u / (1 - m u),   m = D + 4,
//
// for m roundings of unit roundoff u. The bounds are derived in medvlad/backends/reference.py. If several
// scores lie within 2 e of the largest, their centres are the candidates:
//
// 1. They are scored again in float64, in which a product of two float32 numbers is exact.
//
// 2. If float64 cannot separate two of them, the sign of s_j - s_k is computed without rounding
//    (Shewchuk, Discrete and Computational Geometry 18, 1997).
//
// The lowest index wins a true tie. The bounds assume IEEE arithmetic. If a process switches its processor to
// treat denormals as zeros, the labels are those of data whose denormals are zeros.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace medvlad {

// Centres with the numbers that the error bounds need. `centers` (k, d), row-major, must outlive the set.
struct CenterSet {
  CenterSet(const float* centers, std::int64_t k, std::int64_t d);

  const float* centers;
  std::int64_t k;
  std::int64_t d;
  std::vector<double> half_norms;  // |c_k|^2 / 2
  std::vector<float> bias;         // -|c_k|^2 / 2 rounded to float32
  double max_norm = 0.0;           // max_k |c_k|
};

// An upper bound on |x|, and close to it. It is summed in float32, with an allowance for rounding and
// underflow. It is infinite if the squares overflow.
double norm_bound(const float* x, std::int64_t d);

// The same bound from a given float32 sum of d squares, in which each square is rounded at most d / 16 + 16
// times.
class NormBound {
 public:
  explicit NormBound(std::int64_t d);

  double of(double squared) const { return std::sqrt(squared * factor_ + underflow_); }

 private:
  double factor_, underflow_;
};

// Bound on the error of the float32 scores of one row. It holds for any order of summation and includes
// products that underflow.
class Float32Error {
 public:
  explicit Float32Error(const CenterSet& set);

  // The bound for a row whose norm is at most `row_norm`. It is infinite if float32 might overflow, so that
  // every centre becomes a candidate.
  double of(double row_norm) const {
    const double magnitude = row_norm * max_norm_ + half_norm_;
    // No partial sum exceeds `magnitude` by more than rounding, so below 1e37 nothing overflows.
    const bool bounded = magnitude < 1e37 && std::isfinite(gamma_);
    return bounded ? gamma_ * magnitude + underflow_ : std::numeric_limits<double>::infinity();
  }

  // Bound on the relative error of a float32 sum of d products.
  double relative() const { return gamma_; }

 private:
  double max_norm_, half_norm_, gamma_, underflow_;
};

// Return the nearest centre of row x among `candidates`, which are ascending and not empty.
std::int32_t decide(const float* x, const CenterSet& set, const std::vector<std::int32_t>& candidates);

}  // namespace medvlad
