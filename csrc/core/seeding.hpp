// What k-means needs besides labels and sums: squared distances in float64, in a fixed order of summation.
//
// The seeds of k-means++ are drawn by comparing sums of these distances, so one different bit could draw
// another seed. Every instruction set and the reference therefore add in the same order (lanes64.hpp) and the
// result does not depend on the number of threads.
#pragma once

#include <cstdint>

namespace medvlad {

// distances[i] = |x_i - c_label(i)|^2
void squared_distances(const float* x, std::int64_t n, std::int64_t d, const float* centers,
                       const std::int32_t* labels, int n_threads, double* distances);

// One step of greedy k-means++ over rows x (n, d) with squared norms `norms`. For each of n_candidates rows
// c_t,
//
//   distances[t, i] = min(closest[i], |x_i - c_t|^2),   potentials[t] = sum over i of distances[t, i],
//
// with |x - c|^2 = |x|^2 + |c|^2 - 2 x.c, and 0 where that is within its own rounding error of 0.
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
