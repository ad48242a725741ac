#include "column_sums.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"
#include "size.hpp"

namespace medvlad {

void column_sums(const float* x, std::int64_t n, std::int64_t d, int n_threads, double* sums) {
  const std::int64_t n_blocks = (n + kSummedRows - 1) / kSummedRows;
  std::vector<double> partial(size(n_blocks * d));
  parallel_for(n_blocks, n_threads, [&](std::int64_t block, int) {
    double* to = partial.data() + block * d;
    const std::int64_t last = std::min(n, (block + 1) * kSummedRows);
    std::int64_t row = block * kSummedRows;
    // Four rows at a time, so that a sum is loaded and stored once for four.
    for (; row + 4 <= last; row += 4) {
      const float* from = x + row * d;
      for (std::int64_t j = 0; j < d; ++j) {
        to[j] = (((to[j] + double{from[j]}) + double{from[d + j]}) + double{from[2 * d + j]}) +
                double{from[3 * d + j]};
      }
    }
    for (; row < last; ++row) {
      for (std::int64_t j = 0; j < d; ++j) to[j] += double{x[row * d + j]};
    }
  });
  std::fill_n(sums, d, 0.0);
  for (std::int64_t block = 0; block < n_blocks; ++block) {
    for (std::int64_t j = 0; j < d; ++j) sums[j] += partial[size(block * d + j)];
  }
}

}  // namespace medvlad
