// Squared distances for k-means, in float64 and in a fixed order of summation.
//
// k-means++ draws seeds by comparing sums of these distances, so one different bit could draw another seed.
// All instruction sets and the reference therefore add in the same order (lanes64.hpp). The result does not
// depend on the number of threads.
//
// A step of greedy k-means++ computes, for each candidate row c_t,
//
//   distances[t, i] = min(closest[i], d_it),   potentials[t] = sum over i of distances[t, i],
//   d_it = |x_i|^2 + |c_t|^2 - 2 x_i.c_t,      0 if it is within its rounding error of 0,
//
// and makes the candidate with the least potential a seed. Most of these distances need not be computed
// (seeding_filter.hpp): after j seeds, a candidate is nearer than all of them to about one row in j, and most
// candidates are clearly worse than the best one. The others are computed exactly, so the seeds are those of
// all distances to the bit.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "candidate_scorer.hpp"
#include "large_buffer.hpp"
#include "rounded_rows.hpp"
#include "seeding_filter.hpp"

namespace medvlad {

// distances[i] = |x_i - c_label(i)|^2
void squared_distances(const float* x, std::int64_t n, std::int64_t d, const float* centers,
                       const std::int32_t* labels, int n_threads, double* distances);

// Seeding among the rows of `from`. It keeps what all steps need: norms and rounded rows.
class Seeding {
 public:
  // If not `filtered`, all distances are computed exactly. No result depends on it.
  Seeding(const RowsOf& from, int n_threads, bool filtered = true);

  // Write all distances (n_candidates, n) and potentials (n_candidates) of a step. `candidates` are numbers
  // of rows, closest (n) the distances to the nearest seed, infinite before the first one.
  void distances(const std::int64_t* candidates, std::int64_t n_candidates, const double* closest,
                 double* distances, double* potentials);

  // Make the candidate with the least potential a seed, the first one on a tie: update closest (n). Returns
  // its position.
  std::int64_t add_best(const std::int64_t* candidates, std::int64_t n_candidates, double* closest);

  std::int64_t n_rows() const { return from_.n; }
  std::int64_t n_exact() const { return n_exact_; }  // number of exact distances of the last step

 private:
  class Step;
  // A row of a task that candidate t is nearer to than all seeds.
  struct Nearer {
    std::int32_t row, t;
    double distance;
  };

  void all(const Step& step, double* distances, double* potentials);
  std::int64_t best_of_few(const Step& step, const std::int64_t* candidates, const double* closest);

  RowsOf from_;
  int n_threads_;
  std::vector<double> norms_;
  std::unique_ptr<RoundedRows> rounded_;     // null: no filter
  std::unique_ptr<CandidateScorer> scorer_;  // null as well then
  // For each task of rows. They keep their memory from step to step.
  std::vector<std::vector<Left>> left_;
  std::vector<std::vector<Nearer>> nearer_;
  LargeBuffer<double> distances_;  // of all rows and candidates, for steps without the filter
  std::int64_t n_exact_ = 0;
  int unfiltered_steps_ = 0;  // number of steps without the filter that follow, because it left too much
};

}  // namespace medvlad
