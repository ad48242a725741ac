// Vector operations for AVX-512 (F, BW, DQ, VL). 32 registers hold a tile of 12 rows x 32 centres.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace medvlad {

namespace {

struct Vector {
  using Floats = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kTileRows = 12;

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  static Floats broadcast(float value) { return _mm512_set1_ps(value); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  // c - a b
  static Floats multiply_subtract(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
  // The larger number. If either is NaN: b.
  static Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  // The larger number. If either is NaN: NaN.
  static Floats larger_or_nan(Floats a, Floats b) {
    return _mm512_mask_add_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q), a, b);
  }
  static void prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
  static void prefetch_to_write(float* p) { __builtin_prefetch(p, 1, 3); }
  static void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
  static float sum(Floats v) { return _mm512_reduce_add_ps(v); }
  static int count_nonzero(const float* p) {
    const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(p));
    return __builtin_popcount(_mm512_test_epi32_mask(bits, bits));
  }

  // Write the positions of the non-zero numbers of p[0, 64), ascending, and return their number. All 64 bytes
  // of `positions` may be overwritten.
  static int nonzeros(const float* p, std::uint8_t* positions) {
#if defined(__AVX512VBMI2__)
    const __m512i at =
        _mm512_set_epi8(63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43,
                        42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22,
                        21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    std::uint64_t mask = 0;
    for (int q = 0; q < 4; ++q) {
      const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(p + 16 * q));
      mask |= static_cast<std::uint64_t>(_mm512_test_epi32_mask(bits, bits)) << (16 * q);
    }
    _mm512_storeu_si512(positions, _mm512_maskz_compress_epi8(mask, at));
    return __builtin_popcountll(mask);
#else
    int n = 0;
    __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int j = 0; j < 64; j += 16) {
      const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(p + j));
      const __mmask16 mask = _mm512_test_epi32_mask(bits, bits);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(positions + n),
                       _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(mask, at)));
      n += __builtin_popcount(mask);
      at = _mm512_add_epi32(at, _mm512_set1_epi32(16));
    }
    return n;
#endif
  }
};

}  // namespace

}  // namespace medvlad
