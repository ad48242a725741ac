// Steps of the normalisation in float64, as in medvlad/backends/normalise.py.
#pragma once

#include <instructions.cuh>

namespace {

constexpr double kNormFloor = 1e-12;                 // a mass or a norm below it leaves zeros
constexpr double kCenterRounding = 1.0 / (1 << 22);  // of a float32 centre, relative to its norm

__device__ __forceinline__ double inverse_norm(double squared) {
  const double norm = sqrt(squared);
  return norm < kNormFloor ? 0.0 : 1.0 / norm;
}

__device__ __forceinline__ double signed_power(double value, double power) {
  const double magnitude = fabs(value);
  return copysign(power == 0.5 ? sqrt(magnitude) : pow(magnitude, power), value);
}

}  // namespace
