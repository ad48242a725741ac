// Labels from scores: the centre with the largest score, decided exactly if others are within the error
// bound.
//
// With computed scores s_k, each off by at most e, centre k can only be the nearest if
//
//   s_k >= max_j s_j - 2 e.
//
// If one centre is left, it is the label. Otherwise the centres that are left are scored again in float32,
// and decide.hpp chooses among those that are left then.
//
// The squared norm of a row that holds NaN or infinity is not finite either, so such rows are found without
// another pass over the data. That row and all later ones get the label 0.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned.hpp"
#include "decide.hpp"
#include "scorer.hpp"

namespace medvlad {

// Labels consecutive rows. It owns the scores of one block of rows, so every thread needs its own Assigner.
class Assigner {
 public:
  Assigner(const CenterSet& set, const Scorer& scorer);

  // Later calls must have rows at higher addresses.
  void operator()(const float* x, std::int64_t n, std::int32_t* labels, PendingZeros& zeros);

  // The first row of all calls that holds NaN or infinity. Null: none.
  const float* not_finite() const { return not_finite_; }

 private:
  // Returns the mean number of candidates of a row.
  double label(const float* x, std::int64_t n, std::int32_t* labels);
  std::int32_t decide_row(const float* x, const float* scores, float threshold, double norm);
  void find_not_finite(const float* x, std::int64_t n);

  const CenterSet& set_;
  const Scorer& scorer_;
  Float32Error float32_error_;
  ScorerHistory history_;
  const float* not_finite_ = nullptr;
  AlignedBuffer<float> scores_;
  std::vector<float> thresholds_;
  std::vector<double> errors_, norms_;
  std::vector<std::int32_t> candidates_;
  std::vector<float> refined_;
};

}  // namespace medvlad
