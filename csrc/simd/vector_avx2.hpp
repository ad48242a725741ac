// Vector operations for AVX2 with FMA. 16 registers hold a tile of 6 rows x 16 centres.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>

namespace medvlad {

namespace {

// For each mask of eight bits, the positions of its set bits, one byte each.
constexpr std::array<std::uint64_t, 256> bit_positions() {
  std::array<std::uint64_t, 256> table{};
  for (std::uint64_t mask = 0; mask < 256; ++mask) {
    int n = 0;
    for (std::uint64_t bit = 0; bit < 8; ++bit) {
      if ((mask >> bit & 1U) != 0) table[mask] |= bit << (8 * n++);
    }
  }
  return table;
}

constexpr std::array<std::uint64_t, 256> kBitPositions = bit_positions();

struct Vector {
  using Floats = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kTileRows = 6;

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats load(const float* p) { return _mm256_loadu_ps(p); }
  static Floats broadcast(float value) { return _mm256_set1_ps(value); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  // c - a b
  static Floats multiply_subtract(Floats a, Floats b, Floats c) { return _mm256_fnmadd_ps(a, b, c); }
  // The larger number. If either is NaN: b.
  static Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  // The same value, which the compiler may not load again from memory for each use.
  static Floats in_register(Floats v) {
    asm("" : "+x"(v));
    return v;
  }
  // The lower half of each word as a bfloat16 number.
  static Floats lower_halves(Floats words) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(words), 16));
  }
  // The larger number. If either is NaN: NaN.
  static Floats larger_or_nan(Floats a, Floats b) {
    return _mm256_blendv_ps(_mm256_max_ps(a, b), _mm256_add_ps(a, b), _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
  }
  static void prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
  static void prefetch_to_write(float* p) { __builtin_prefetch(p, 1, 3); }
  static void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
  // low, high = a_0 b_0 a_1 b_1 ...
  static void interleave(Floats a, Floats b, Floats& low, Floats& high) {
    const Floats outer = _mm256_unpacklo_ps(a, b), inner = _mm256_unpackhi_ps(a, b);
    low = _mm256_permute2f128_ps(outer, inner, 0x20);
    high = _mm256_permute2f128_ps(outer, inner, 0x31);
  }
  static float sum(Floats v) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, v);
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
  static unsigned mask_nonzero(const float* p) {
    const __m256i zeros = _mm256_cmpeq_epi32(_mm256_castps_si256(_mm256_loadu_ps(p)), _mm256_setzero_si256());
    return ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(zeros))) & 0xFFU;
  }
  static int count_nonzero(const float* p) { return __builtin_popcount(mask_nonzero(p)); }

  // Write the positions first + i of the non-zero numbers p[i], i < kFound, ascending, and return their
  // number. All kFound places of `positions` may be overwritten.
  static constexpr int kFound = 8;
  static int nonzeros(const float* p, std::uint16_t first, std::uint16_t* positions) {
    const unsigned mask = mask_nonzero(p);
    const __m128i offsets = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(static_cast<long long>(kBitPositions[mask])));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(positions),
                     _mm_add_epi16(offsets, _mm_set1_epi16(static_cast<short>(first))));
    return __builtin_popcount(mask);
  }
};

}  // namespace

}  // namespace medvlad
