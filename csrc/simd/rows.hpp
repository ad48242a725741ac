// What the scorers ask of a row of descriptors: its norm, its zeros, and to fetch it in advance.
//
// `Vector` comes from one of vector_*.hpp, which must be included before this file.
#pragma once

#include <algorithm>
#include <cstdint>

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr std::int64_t kSampledRows = 8;  // about so many rows of a block give the share

// |x|^2 in float32, as NormBound expects it.
inline double squared_norm(const float* x, std::int64_t d) {
  constexpr int kSums = 4;
  Vector::Floats sums[kSums] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
  constexpr std::int64_t kStep = kSums * Vector::kWidth;
  std::int64_t j = 0;
  for (; j + kStep <= d; j += kStep) {
    for (int i = 0; i < kSums; ++i) {
      const auto values = Vector::load(x + j + i * Vector::kWidth);
      sums[i] = Vector::multiply_add(values, values, sums[i]);
    }
  }
  double rest = 0.0;
  for (; j < d; ++j) rest += double{x[j]} * double{x[j]};
  const auto total = Vector::add(Vector::add(sums[0], sums[1]), Vector::add(sums[2], sums[3]));
  return rest + double{Vector::sum(total)};
}

// The share of numbers of n rows that are not zero, estimated from some of the rows.
inline double nonzero_share(const float* x, std::int64_t n, std::int64_t d) {
  const std::int64_t step = std::max<std::int64_t>(1, n / kSampledRows);
  std::int64_t looked_at = 0, found = 0;
  for (std::int64_t row = 0; row < n; row += step) {
    const float* values = x + row * d;
    std::int64_t j = 0;
    for (; j + Vector::kWidth <= d; j += Vector::kWidth) found += Vector::count_nonzero(values + j);
    looked_at += j;
  }
  return looked_at == 0 ? 1.0 : static_cast<double>(found) / static_cast<double>(looked_at);
}

// Write the positions of the non-zero numbers of x[0, d), ascending, and return their number. `positions` has
// room for d + kFound, and d is at most 2^16.
inline std::int64_t list_nonzeros(const float* x, std::int64_t d, std::uint16_t* positions) {
  std::int64_t n = 0, j = 0;
  for (; j + Vector::kFound <= d; j += Vector::kFound) {
    n += Vector::nonzeros(x + j, static_cast<std::uint16_t>(j), positions + n);
  }
  for (; j < d; ++j) {
    positions[n] = static_cast<std::uint16_t>(j);
    n += static_cast<std::int64_t>(x[j] != 0.0F);
  }
  return n;
}

// Prefetch the d numbers at x, which need not be valid. The calls go in the order of addresses, which the
// processor's own prefetcher recognises; it does not recognise the rows of a block.
inline void prefetch(const float* x, std::int64_t d) {
  for (std::int64_t j = 0; j < d; j += 16) Vector::prefetch(x + j);
}

}  // namespace

}  // namespace medvlad
