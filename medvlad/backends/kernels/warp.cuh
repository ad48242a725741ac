// Sums over the 32 threads of a warp, in a fixed order.
#pragma once

constexpr unsigned kWholeWarp = 0xFFFFFFFFU;
constexpr int kWarp = 32;

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_of_block() { return static_cast<int>(threadIdx.x) / kWarp; }

// Return the sum over each group of `size` neighbouring threads, added by halves. Both partners of an
// addition have the same two operands, so all threads of a group get the same bits.
template <class Number>
__device__ __forceinline__ Number sum_over(int size, Number value) {
  for (int apart = size / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kWholeWarp, value, apart);
  return value;
}
