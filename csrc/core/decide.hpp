// The exact nearest centre: which of a few candidates has the largest real score.
//
// A fast pass (float32, any order of summation) leaves several candidates when their scores lie closer
// together than its error bound. They are scored again in float64, where a product of two float32 is exact;
// where even float64 cannot tell them apart, the sign of s_j - s_k comes from a sum without rounding
// (Shewchuk, Discrete and Computational Geometry 18, 1997). The lowest index wins a true tie.
// The bounds are derived in medvlad/backends/reference.py. They assume IEEE arithmetic: a process that has
// told its processor to take denormals for zeros gets labels for denormals taken for zeros.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace medvlad {

// Centres with what the bounds need. `centers` is borrowed: (k, d) row-major.
struct CenterSet {
  CenterSet(const float* centers, std::int64_t k, std::int64_t d);

  const float* centers;
  std::int64_t k;
  std::int64_t d;
  std::vector<double> half_norms;  // |c_k|^2 / 2
  std::vector<float> bias;         // -|c_k|^2 / 2 rounded to float32
  double max_norm = 0.0;           // max_k |c_k|
};

// At least |x|, and at most a little more: summed in float32, with its own rounding and underflow added.
// Infinite where the squares overflow.
double norm_bound(const float* x, std::int64_t d);

// The same from a sum of squares of d numbers, summed in float32 with at most d / 16 + 16 roundings each.
class NormBound {
 public:
  explicit NormBound(std::int64_t d);

  double of(double squared) const { return std::sqrt(squared * factor_ + underflow_); }

 private:
  double factor_, underflow_;
};

// Bound on |computed - real| score of one row, for float32 sums in any order, products that underflow
// included.
class Float32Error {
 public:
  explicit Float32Error(const CenterSet& set);

  // For a row of norm at most `row_norm`. Infinite where float32 might overflow, so that every centre is a
  // candidate.
  double of(double row_norm) const {
    const double magnitude = row_norm * max_norm_ + half_norm_;
    // Every partial sum is at most `magnitude`, up to rounding: below this nothing overflows.
    const bool bounded = magnitude < 1e37 && std::isfinite(gamma_);
    return bounded ? gamma_ * magnitude + underflow_ : std::numeric_limits<double>::infinity();
  }

  // Relative error of a float32 sum of d products.
  double relative() const { return gamma_; }

 private:
  double max_norm_, half_norm_, gamma_, underflow_;
};

// The winner among `candidates` (ascending, at least one) for row x.
std::int32_t decide(const float* x, const CenterSet& set, const std::vector<std::int32_t>& candidates);

}  // namespace medvlad
