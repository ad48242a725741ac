#include "rounded_rows.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "candidate_scorer.hpp"
#include "decide.hpp"
#include "parallel.hpp"
#include "size.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kTaskRows = 1024;
constexpr int kValues = 16;  // numbers that are rounded together
// Smaller numbers become zero. Their products would be denormal, which is slow on some processors.
constexpr float kSmallest = 0x1p-60F;

// Round 16 numbers to 8 words. The squares of what is lost are added to `lost`.
void round_values(const float* x, float scale, std::uint32_t* words, float (&lost)[kValues]) {
  std::uint32_t rounded[kValues];
  for (int j = 0; j < kValues; ++j) {
    const float value = x[j] * scale;
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7FFFU + ((bits >> 16) & 1U)) & 0xFFFF0000U;
    bits = std::fabs(value) < kSmallest ? 0U : bits;
    rounded[j] = bits;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    lost[j] += (value - result) * (value - result);  // the difference is exact
  }
  for (int j = 0; j < kValues / 2; ++j) words[j] = (rounded[2 * j] >> 16) | rounded[2 * j + 1];
}

// A power of two that brings the longest row to a length near 1, as far as float32 can hold the power.
float scale_for(const double* norms, std::int64_t n) {
  const double most = n > 0 ? *std::max_element(norms, norms + n) : 0.0;
  if (!(most > 0.0)) return 1.0F;
  return std::ldexp(1.0F, std::clamp(-std::ilogb(most) / 2, -126, 127));
}

}  // namespace

RoundedRows::RoundedRows(const RowsOf& from, const double* norms, int n_threads)
    : words((from.d + 31) / 32 * 16), scale(scale_for(norms, from.n)), lost(size(from.n)) {
  const std::int64_t padded = (from.n + kScoredRows - 1) / kScoredRows * kScoredRows;
  values_.reserve(padded * words);
  std::fill(values_.data() + from.n * words, values_.data() + padded * words, 0U);
  const NormBound bound(from.d);
  // Multiplying by the scale may make a number denormal, and then loses at most FLT_MIN.
  const double underflow = static_cast<double>(from.d) * double{FLT_MIN};
  parallel_for((from.n + kTaskRows - 1) / kTaskRows, n_threads, [&](std::int64_t task, int) {
    const std::int64_t last = std::min(from.n, (task + 1) * kTaskRows);
    for (std::int64_t i = task * kTaskRows; i < last; ++i) {
      const float* row = from[i];
      std::uint32_t* to = values_.data() + i * words;
      float lanes[kValues] = {};
      std::int64_t j = 0;
      for (; j + kValues <= from.d; j += kValues) round_values(row + j, scale, to + j / 2, lanes);
      for (; j < 2 * words; j += kValues) {
        float rest[kValues] = {};
        if (j < from.d) std::copy(row + j, row + from.d, rest);
        round_values(rest, scale, to + j / 2, lanes);
      }
      double squared = 0.0;
      for (const float lane : lanes) squared += double{lane};
      lost[size(i)] = rounded_up(bound.of(squared) + underflow);
    }
  });
}

float rounded_up(double value) {
  const auto nearest = static_cast<float>(value);
  return nearest + std::fabs(nearest) * 0x1p-23F + FLT_MIN;
}

}  // namespace medvlad
