// Labels from scores: the largest, and where others come within the error bound, the exact decision.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned.hpp"
#include "decide.hpp"
#include "scorer.hpp"

namespace medvlad {

// Labels of consecutive rows; owns the scores of one block, so each thread has its own.
class Assigner {
 public:
  Assigner(const CenterSet& set, const Scorer& scorer);

  void operator()(const float* x, std::int64_t n, std::int32_t* labels, PendingZeros& zeros);

 private:
  void label(const float* x, std::int64_t n, std::int32_t* labels);
  std::int32_t decide_row(const float* x, const float* scores, float threshold);

  const CenterSet& set_;
  const Scorer& scorer_;
  Float32Error float32_error_;
  AlignedBuffer<float> scores_;
  std::vector<float> thresholds_;
  std::vector<double> errors_;
  std::vector<std::int32_t> candidates_;
  std::vector<float> refined_;
};

}  // namespace medvlad
