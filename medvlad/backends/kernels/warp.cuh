// A warp's 32 threads together: sums in one fixed order.
#pragma once

constexpr unsigned kWholeWarp = 0xFFFFFFFFU;
constexpr int kWarp = 32;

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_of_block() { return static_cast<int>(threadIdx.x) / kWarp; }

// The sum over groups of `size` neighbouring threads, the same in each of them: by halves, and every addition
// has the same two operands in both partners.
template <class Number>
__device__ __forceinline__ Number sum_over(int size, Number value) {
  for (int apart = size / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kWholeWarp, value, apart);
  return value;
}
