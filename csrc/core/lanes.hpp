// Sixteen float32 numbers at a time: products of rows, the largest score, and the scores that reach a
// threshold.
//
// The code is written as plain loops, and with intrinsics where compilers do not find the right instructions.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

inline constexpr int kFloatLanes = 16;

// The largest of n scores, n a positive multiple of kFloatLanes. None may be NaN.
inline float largest(const float* scores, std::int64_t n) {
#if defined(__AVX512F__)
  __m512 most = _mm512_loadu_ps(scores);
  for (std::int64_t i = kFloatLanes; i < n; i += kFloatLanes)
    most = _mm512_max_ps(most, _mm512_loadu_ps(scores + i));
  return _mm512_reduce_max_ps(most);
#else
  float lanes[kFloatLanes];
  std::copy(scores, scores + kFloatLanes, lanes);
  for (std::int64_t i = kFloatLanes; i < n; i += kFloatLanes) {
    for (int j = 0; j < kFloatLanes; ++j) lanes[j] = scores[i + j] > lanes[j] ? scores[i + j] : lanes[j];
  }
  for (int half = kFloatLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] = lanes[j + half] > lanes[j] ? lanes[j + half] : lanes[j];
  }
  return lanes[0];
#endif
}

// A mask for kFloatLanes scores. Bit j is set unless scores[j] < threshold, so it is set if the score is NaN.
inline std::uint32_t not_below(const float* scores, float threshold) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(scores), _mm512_set1_ps(threshold), _CMP_NLT_UQ);
#elif defined(__AVX__)
  const __m256 t = _mm256_set1_ps(threshold);
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(scores), t, _CMP_NLT_UQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(scores + 8), t, _CMP_NLT_UQ));
  return static_cast<std::uint32_t>(low | (high << 8));
#else
  std::uint32_t kept = 0;
  for (int j = 0; j < kFloatLanes; ++j) kept |= static_cast<std::uint32_t>(!(scores[j] < threshold)) << j;
  return kept;
#endif
}

// The sum of a_i b_i over d numbers, in float32, in any order.
inline float dot(const float* a, const float* b, std::int64_t d) {
  // Four sums, because an addition takes four cycles.
  constexpr int kSums = 4;
  std::int64_t i = 0;
#if defined(__AVX512F__)
  __m512 sums[kSums];
  for (__m512& one : sums) one = _mm512_setzero_ps();
  for (; i + kSums * kFloatLanes <= d; i += kSums * kFloatLanes) {
    for (int s = 0; s < kSums; ++s) {
      const std::int64_t at = i + s * kFloatLanes;
      sums[s] = _mm512_fmadd_ps(_mm512_loadu_ps(a + at), _mm512_loadu_ps(b + at), sums[s]);
    }
  }
  float total =
      _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
#else
  float lanes[kSums * kFloatLanes] = {};
  for (; i + kSums * kFloatLanes <= d; i += kSums * kFloatLanes) {
    for (int j = 0; j < kSums * kFloatLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  for (int half = kSums * kFloatLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  float total = lanes[0];
#endif
  for (; i < d; ++i) total += a[i] * b[i];
  return total;
}

// The mask of not_below for scores[j] = products[j] - halves[j].
inline std::uint32_t not_below(const float* products, const float* halves, float threshold) {
#if defined(__AVX512F__)
  const __m512 scores = _mm512_sub_ps(_mm512_loadu_ps(products), _mm512_loadu_ps(halves));
  return _mm512_cmp_ps_mask(scores, _mm512_set1_ps(threshold), _CMP_NLT_UQ);
#else
  float scores[kFloatLanes];
  for (int j = 0; j < kFloatLanes; ++j) scores[j] = products[j] - halves[j];
  return not_below(scores, threshold);
#endif
}

#if defined(__GNUC__)
inline int lowest_bit(std::uint64_t mask) { return __builtin_ctzll(mask); }
inline int count_bits(std::uint64_t mask) { return __builtin_popcountll(mask); }
#else
inline int lowest_bit(std::uint64_t mask) {
  int bit = 0;
  for (; (mask & 1U) == 0; mask >>= 1) ++bit;
  return bit;
}
inline int count_bits(std::uint64_t mask) {
  int bits = 0;
  for (; mask != 0; mask &= mask - 1) ++bits;
  return bits;
}
#endif

}  // namespace

}  // namespace medvlad
