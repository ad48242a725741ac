// medvlad/backends/kernels/instructions.cuh for the host, with arithmetic in place of PTX.
#pragma once

#include "cuda_on_host.hpp"

typedef long long int64;
typedef unsigned long long uint64;

struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

#if !defined(MEDVLAD_ELEMENT)
#define MEDVLAD_ELEMENT float
#endif
typedef MEDVLAD_ELEMENT Element;

inline float widened(float value) { return value; }

inline float widened(Half value) {
  const float sign = (value.bits & 0x8000) != 0 ? -1.0F : 1.0F;
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 0x3FF;
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

inline float widened(BFloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

// Exact for denormals, which are zeros elsewhere: see cuda_on_host.hpp.
inline double wide(float value) {
  const std::uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7FFFFFFFU;
  if (magnitude >= 0x800000U) return static_cast<double>(value);
  const double denormal = static_cast<double>(magnitude) * 0x1p-149;
  return bits >> 31 != 0 ? -denormal : denormal;
}

inline float narrow(double value) {
  const bool is_small = std::fabs(value) < 0x1p-126;
  if (!is_small) return static_cast<float>(value);
  // Adding 2^-97 rounds to a multiple of 2^-149.
  const double rounded = (std::fabs(value) + 0x1p-97) - 0x1p-97;
  const auto units = static_cast<std::uint32_t>(rounded * 0x1p149);
  return __uint_as_float((value < 0.0 || std::signbit(value) ? 0x80000000U : 0U) | units);
}

inline void store_streamed(float* to, float value) { __stcs(to, value); }

#define MEDVLAD_TENSOR_CORES 1
#define MEDVLAD_FLOAT32_UNITS 1

inline float rounded_to_tf32(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7F800000U) == 0x7F800000U) return value;
  return __uint_as_float((bits + 0x1000U) & ~0x1FFFU);
}

// As inexact as the bound in assign.cuh allows: every addend, and the sum, is cut off at 2^-23 of the
// largest. Denormals count as zeros.
inline void multiply_add_tf32(float (&sums)[4], const float (&a)[4], const float (&b)[2]) {
  struct Fragments {
    float a[4], b[2];
  } own;
  std::copy(a, a + 4, own.a);
  std::copy(b, b + 2, own.b);
  for (const float value : {a[0], a[1], a[2], a[3], b[0], b[1]}) {
    if ((__float_as_uint(value) & 0x1FFFU) != 0 && std::isfinite(value)) host::fail("an operand is not tf32");
  }
  host::exchange(own);
  const int g = host::me->lane / 4, t = host::me->lane % 4;
  const auto flushed = [](float value) { return std::fabs(value) < 1.17549435e-38F ? 0.0F : value; };
  for (int i = 0; i < 4; ++i) {
    const int row = g, column = 2 * t + i % 2;
    double terms[9] = {static_cast<double>(flushed(sums[i]))}, largest = std::fabs(terms[0]);
    for (int k = 0; k < 8; ++k) {
      const float x = host::slot<Fragments>(row * 4 + k % 4).a[i / 2 + k / 4 * 2];
      const float y = host::slot<Fragments>(column * 4 + k % 4).b[k / 4];
      terms[k + 1] = static_cast<double>(flushed(x)) * static_cast<double>(flushed(y));
      largest = std::max(largest, std::fabs(terms[k + 1]));
    }
    double sum = 0.0;
    const double unit = std::ldexp(1.0, std::max(std::ilogb(largest + 1e-300) - 23, -900));
    for (const double term : terms) sum += std::isfinite(largest) ? std::trunc(term / unit) * unit : term;
    const float nearest = static_cast<float>(sum);
    const bool beyond = std::fabs(static_cast<double>(nearest)) > std::fabs(sum);
    sums[i] = beyond ? std::nextafter(nearest, 0.0F) : nearest;
  }
}
