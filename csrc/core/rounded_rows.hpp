// Rows rounded to bfloat16, with a bound on what each row lost.
//
// k-means++ reads all rows in every step, so half the bytes take half the time. Rows are multiplied by a
// power of two, so that the longest has a length near 1 and no product overflows. Data of any scale are
// rounded equally well then.
#pragma once

#include <cstdint>
#include <vector>

#include "large_buffer.hpp"

namespace medvlad {

// n rows of x (., d): rows[i] of x for each i, or the first n if `rows` is null. The arrays must outlive it.
struct RowsOf {
  const float* x;
  const std::int64_t* rows;
  std::int64_t n;
  std::int64_t d;

  const float* operator[](std::int64_t i) const { return x + (rows == nullptr ? i : rows[i]) * d; }
};

class RoundedRows {
 public:
  // `norms` (n) are the squared norms of the rows.
  RoundedRows(const RowsOf& from, const double* norms, int n_threads);

  // Row i: the numbers bf16(scale * x_ij), two in each word, padded with zeros. Rows of zeros follow, up to a
  // multiple of kScoredRows (candidate_scorer.hpp).
  const std::uint32_t* operator[](std::int64_t i) const { return values_.data() + i * words; }

  std::int64_t words;       // number of words of a row: a multiple of 16, which are 64 bytes
  float scale;              // a power of two
  std::vector<float> lost;  // bounds on |scale x - y| for the rounded rows y

 private:
  LargeBuffer<std::uint32_t> values_;
};

// A float32 that is at least `value`, if float32 can hold it.
float rounded_up(double value);

}  // namespace medvlad
