// Eight float64 lanes with a fixed order of summation, so that every instruction set gives the same bits.
//
// The lanes are stored in vectors of the width that the module's flags allow, or as single numbers if the
// compiler has no vector types.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr int kDoubles = 8;

#if defined(__AVX512F__)
constexpr int kPartDoubles = 8;
using Part __attribute__((vector_size(64))) = double;
#elif defined(__AVX__)
constexpr int kPartDoubles = 4;
using Part __attribute__((vector_size(32))) = double;
#elif defined(__GNUC__)
constexpr int kPartDoubles = 2;
using Part __attribute__((vector_size(16))) = double;
#else
constexpr int kPartDoubles = 1;
using Part = double;
#endif
constexpr int kParts = kDoubles / kPartDoubles;

struct Lanes64 {
  Part part[kParts];
};

inline Lanes64 operator+(const Lanes64& a, const Lanes64& b) {
  Lanes64 c;
  for (int i = 0; i < kParts; ++i) c.part[i] = a.part[i] + b.part[i];
  return c;
}

inline Lanes64 operator*(const Lanes64& a, const Lanes64& b) {
  Lanes64 c;
  for (int i = 0; i < kParts; ++i) c.part[i] = a.part[i] * b.part[i];
  return c;
}

inline Lanes64& operator+=(Lanes64& a, const Lanes64& b) { return a = a + b; }

inline Lanes64 load(const double* values) {
  Lanes64 lanes;
  std::memcpy(&lanes, values, sizeof lanes);
  return lanes;
}

inline void store(const Lanes64& lanes, double* values) { std::memcpy(values, &lanes, sizeof lanes); }

inline Lanes64 broadcast(double value) {
  Lanes64 lanes;
  for (int i = 0; i < kParts; ++i) lanes.part[i] = Part{} + value;
  return lanes;
}

inline Lanes64 widen(const float* values) {
  Lanes64 lanes;
#if defined(__AVX512F__)
  lanes.part[0] = _mm512_cvtps_pd(_mm256_loadu_ps(values));
#elif defined(__AVX__)
  for (int i = 0; i < kParts; ++i) lanes.part[i] = _mm256_cvtps_pd(_mm_loadu_ps(values + 4 * i));
#else
  double wide[kDoubles];
  for (int i = 0; i < kDoubles; ++i) wide[i] = static_cast<double>(values[i]);
  lanes = load(wide);
#endif
  return lanes;
}

inline void narrow(const Lanes64& lanes, float* values) {
#if defined(__AVX512F__)
  _mm256_storeu_ps(values, _mm512_cvtpd_ps(lanes.part[0]));
#elif defined(__AVX__)
  for (int i = 0; i < kParts; ++i) _mm_storeu_ps(values + 4 * i, _mm256_cvtpd_ps(lanes.part[i]));
#else
  double wide[kDoubles];
  store(lanes, wide);
  for (int i = 0; i < kDoubles; ++i) values[i] = static_cast<float>(wide[i]);
#endif
}

// a * b + c for products a * b of at most 53 bits, which are exact. A fused multiply-add gives the same
// result.
inline Lanes64 exact_multiply_add(const Lanes64& a, const Lanes64& b, const Lanes64& c) {
#if defined(__AVX512F__)
  Lanes64 fused;
  fused.part[0] = _mm512_fmadd_pd(a.part[0], b.part[0], c.part[0]);
  return fused;
#elif defined(__FMA__)
  Lanes64 fused;
  for (int i = 0; i < kParts; ++i) fused.part[i] = _mm256_fmadd_pd(a.part[i], b.part[i], c.part[i]);
  return fused;
#else
  return a * b + c;
#endif
}

// The sum of the lanes, folded by halves: ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)).
inline double sum(const Lanes64& lanes) {
#if defined(__AVX__)
#if defined(__AVX512F__)
  const __m256d four =
      _mm256_add_pd(_mm512_castpd512_pd256(lanes.part[0]), _mm512_extractf64x4_pd(lanes.part[0], 1));
#else
  const __m256d four = _mm256_add_pd(lanes.part[0], lanes.part[1]);
#endif
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
#else
  double lane[kDoubles];
  store(lanes, lane);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
#endif
}

}  // namespace

}  // namespace medvlad
