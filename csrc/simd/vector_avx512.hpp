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
  // The same value, which the compiler may not load again from memory for each use.
  static Floats in_register(Floats v) {
    asm("" : "+v"(v));
    return v;
  }
  // The lower half of each word as a bfloat16 number.
  static Floats lower_halves(Floats words) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(words), 16));
  }
  // The larger number. If either is NaN: NaN.
  static Floats larger_or_nan(Floats a, Floats b) {
    return _mm512_mask_add_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q), a, b);
  }
  static void prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
  static void prefetch_to_write(float* p) { __builtin_prefetch(p, 1, 3); }
  static void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
  // low, high = a_0 b_0 a_1 b_1 ...
  static void interleave(Floats a, Floats b, Floats& low, Floats& high) {
    const __m512i of_low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    low = _mm512_permutex2var_ps(a, of_low, b);
    high = _mm512_permutex2var_ps(a, _mm512_add_epi32(of_low, _mm512_set1_epi32(8)), b);
  }
  static float sum(Floats v) { return _mm512_reduce_add_ps(v); }
  static unsigned mask_nonzero(const float* p) {
    const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(p));
    return _mm512_test_epi32_mask(bits, bits);
  }
  static int count_nonzero(const float* p) { return __builtin_popcount(mask_nonzero(p)); }

  // Write the positions first + i of the non-zero numbers p[i], i < kFound, ascending, and return their
  // number. All kFound places of `positions` may be overwritten.
#if defined(__AVX512VBMI2__)
  static constexpr int kFound = 32;
  static int nonzeros(const float* p, std::uint16_t first, std::uint16_t* positions) {
    const __m512i offsets = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                                             15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i at = _mm512_add_epi16(offsets, _mm512_set1_epi16(static_cast<short>(first)));
    const auto mask = static_cast<std::uint32_t>(mask_nonzero(p) | mask_nonzero(p + 16) << 16);
    _mm512_storeu_si512(positions, _mm512_maskz_compress_epi16(mask, at));
    return __builtin_popcount(mask);
  }
#else
  static constexpr int kFound = 16;
  static int nonzeros(const float* p, std::uint16_t first, std::uint16_t* positions) {
    const __m512i offsets = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i at = _mm512_add_epi32(offsets, _mm512_set1_epi32(first));
    const auto mask = static_cast<__mmask16>(mask_nonzero(p));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(positions),
                        _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(mask, at)));
    return __builtin_popcount(mask);
  }
#endif
};

}  // namespace

}  // namespace medvlad
