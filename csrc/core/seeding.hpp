// Squared distances for k-means, in float64 and in a fixed order of summation.
//
// k-means++ draws seeds by comparing sums of these distances, so one different bit could draw another seed.
// All instruction sets and the reference therefore add in the same order (lanes64.hpp). The result does not
// depend on the number of threads.
#pragma once

#include <cstdint>

namespace medvlad {

// distances[i] = |x_i - c_label(i)|^2
void squared_distances(const float* x, std::int64_t n, std::int64_t d, const float* centers,
                       const std::int32_t* labels, int n_threads, double* distances);

// One step of greedy k-means++ over rows x (n, d) with squared norms `norms` (n). `candidates` are row
// numbers. For each candidate row c_t,
//
//   distances[t, i] = min(closest[i], |x_i - c_t|^2),   potentials[t] = sum over i of distances[t, i],
//
// with |x - c|^2 = |x|^2 + |c|^2 - 2 x.c. A distance that is within its rounding error of 0 becomes 0.
struct CandidateStep {
  const float* x;
  std::int64_t n;
  std::int64_t d;
  const double* norms;
  const double* closest;
  const std::int64_t* candidates;
  std::int64_t n_candidates;
};
void candidate_distances(const CandidateStep& step, int n_threads, double* distances, double* potentials);

}  // namespace medvlad
