// Centres minus their mean, which makes rounding them to fewer bits lose less.
//
// With mu close to the mean of the centres, c'_k = c_k - mu and h_k = (|c_k|^2 - |mu|^2) / 2,
//
//   s_k - x.mu + |mu|^2 / 2 = x.c'_k - h_k,
//
// and the terms subtracted on the left are the same for all centres. The sum of the centres must not overflow
// float32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "decide.hpp"
#include "size.hpp"

namespace medvlad {

struct Centred {
  explicit Centred(const CenterSet& set) : mean(size(set.d)), bias(size(set.k)) {
    for (std::int64_t i = 0; i < set.k; ++i) {
      const float* center = set.centers + i * set.d;
      for (std::int64_t j = 0; j < set.d; ++j) mean[size(j)] += center[j];
    }
    double squared = 0.0;
    for (float& value : mean) {
      value /= static_cast<float>(set.k);
      squared += double{value} * double{value};
    }
    for (std::int64_t i = 0; i < set.k; ++i) {
      const double half = set.half_norms[size(i)] - 0.5 * squared;
      bias[size(i)] = static_cast<float>(-half);
      max_half = std::max(max_half, std::fabs(half));
    }
    // An allowance for rounding |c|^2 and |mu|^2. Their float64 rounding is far below this float32 share.
    max_half += 1e-6 * 0.5 * (set.max_norm * set.max_norm + squared);
  }

  std::vector<float> mean;  // mu
  std::vector<float> bias;  // -h_k rounded to float32
  double max_half = 0.0;    // bound on |h_k|
};

}  // namespace medvlad
