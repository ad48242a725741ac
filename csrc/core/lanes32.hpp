// Float32 lanes for bfloat16 numbers: as many as a register of the module's instruction set holds.
//
// A word of 32 bits holds two bfloat16 numbers, the first one in its lower half. Moving a half to the upper
// end of a word gives its float32 value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

#if defined(__AVX512F__)
constexpr int kFloats = 16;
#elif defined(__AVX__)
constexpr int kFloats = 8;
#elif defined(__GNUC__)
constexpr int kFloats = 4;
#else
constexpr int kFloats = 1;
#endif

#if defined(__GNUC__)
using Lanes32 __attribute__((vector_size(4 * kFloats))) = float;
using Words32 __attribute__((vector_size(4 * kFloats))) = std::uint32_t;
#else
using Lanes32 = float;
using Words32 = std::uint32_t;
#endif

inline Lanes32 lanes_of(const Words32& words) {
  Lanes32 lanes;
  std::memcpy(&lanes, &words, sizeof lanes);
  return lanes;
}

inline Lanes32 load_lanes(const float* values) {
  Lanes32 lanes;
  std::memcpy(&lanes, values, sizeof lanes);
  return lanes;
}

// The first and the second numbers of kFloats words.
struct Widened {
  explicit Widened(const std::uint32_t* from) {
    Words32 words;
    std::memcpy(&words, from, sizeof words);
    first = lanes_of(words << 16);
    second = lanes_of(words & 0xFFFF0000U);
  }

  Lanes32 first, second;
};

inline Lanes32 multiply_add(const Lanes32& a, const Lanes32& b, const Lanes32& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// The same value. The compiler may not load it again from memory, where each load would delay others.
inline Lanes32 in_register(Lanes32 value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#endif
  return value;
}

// Prefetch the cache line at `address`, which need not be valid.
inline void prefetch_words(const std::uint32_t* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address, 0, 3);
#else
  static_cast<void>(address);
#endif
}

// sums[i] = the sum of the lanes of vectors[i].
template <std::size_t kVectors>
inline void sum_lanes(const Lanes32 (&vectors)[kVectors], float* sums) {
#if defined(__AVX512F__)
  if constexpr (kVectors == 16) {
    // Transpose while adding: each step halves the number of vectors.
    __m512 four[4], two[2];
    for (int i = 0; i < 4; ++i) {
      const Lanes32* v = vectors + 4 * i;
      const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
      const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
      const __m512d left = _mm512_castps_pd(ab), right = _mm512_castps_pd(cd);
      four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(left, right)),
                              _mm512_castpd_ps(_mm512_unpackhi_pd(left, right)));
    }
    for (int i = 0; i < 2; ++i) {
      two[i] = _mm512_add_ps(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xDD));
    }
    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_shuffle_f32x4(two[0], two[1], 0x88),
                                         _mm512_shuffle_f32x4(two[0], two[1], 0xDD)));
    return;
  }
#elif defined(__AVX__)
  if constexpr (kVectors % 4 == 0) {
    for (std::size_t i = 0; i < kVectors; i += 4) {
      const __m256 four = _mm256_hadd_ps(_mm256_hadd_ps(vectors[i], vectors[i + 1]),
                                         _mm256_hadd_ps(vectors[i + 2], vectors[i + 3]));
      _mm_storeu_ps(sums + i, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
    }
    return;
  }
#endif
  for (std::size_t i = 0; i < kVectors; ++i) {
    float lane[kFloats];
    std::memcpy(lane, &vectors[i], sizeof lane);
    for (int half = kFloats / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
    }
    sums[i] = lane[0];
  }
}

}  // namespace

}  // namespace medvlad
