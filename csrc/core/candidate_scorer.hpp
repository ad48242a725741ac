// Products of rounded rows with the candidates of a step of k-means++: p_rt = y_r.c_t, off by a known bound.
//
// An instruction set may have its own scorer. The products only say which distances need not be computed
// exactly (seeding.hpp), so a scorer may round in any way.
#pragma once

#include <cstdint>
#include <memory>

namespace medvlad {

inline constexpr std::int64_t kScoredRows = 16;

class CandidateScorer {
 public:
  virtual ~CandidateScorer() = default;

  // Take the candidates (n, d). The scorer copies what it needs.
  virtual void prepare(const float* candidates, std::int64_t n) = 0;

  // Write products[r * stride + t] for the rounded rows r in [0, n) at `rows` and the prepared candidates t.
  // Products between their number and the stride are undefined. If n is not a multiple of kScoredRows, the
  // rows up to the next multiple may be read, and their products be written. Several threads may call it at
  // once.
  virtual void operator()(const std::uint32_t* rows, std::int64_t n, float* products) const = 0;

  std::int64_t stride = 0;  // a multiple of 16, set by `prepare`
  double lost = 0.0;        // max |c_t - b_t|, if b_t is multiplied in place of c_t; set by `prepare`
  // The float32 error of a product is at most relative * |y| max|c_t| + absolute.
  double relative = 0.0;
  double absolute = 0.0;
};

// The scorer of the instruction set that this module is compiled for, for candidates of d numbers. Null:
// exact products are as fast.
std::unique_ptr<CandidateScorer> make_candidate_scorer(std::int64_t d);

// A scorer that widens the rows to float32 and multiplies by unrounded candidates. Null if the compiler has
// no vectors.
std::unique_ptr<CandidateScorer> make_float_candidate_scorer(std::int64_t d);

}  // namespace medvlad
