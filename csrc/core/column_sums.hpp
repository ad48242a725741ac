// Sums of the columns of a matrix, in float64 and in a fixed order: over blocks of kSummedRows rows, each
// from 0 and in order, then over the blocks. The reference adds in the same order.
#pragma once

#include <cstdint>

namespace medvlad {

inline constexpr std::int64_t kSummedRows = 8192;

// sums[j] = the sum of column j of x (n, d).
void column_sums(const float* x, std::int64_t n, std::int64_t d, int n_threads, double* sums);

}  // namespace medvlad
