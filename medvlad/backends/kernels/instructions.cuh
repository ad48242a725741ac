// Hardware features beyond CUDA C++: number formats, tensor cores, streamed stores.
//
// No header of the CUDA toolkit is used, so NVRTC alone can compile every kernel.
#pragma once

typedef long long int64;
typedef unsigned long long uint64;

// 16-bit numbers that networks produce, as bits.
struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

// Type of the numbers of the descriptors: float, Half or BFloat16.
#if !defined(MEDVLAD_ELEMENT)
#define MEDVLAD_ELEMENT float
#endif
typedef MEDVLAD_ELEMENT Element;

__device__ __forceinline__ float widened(float value) { return value; }

__device__ __forceinline__ float widened(Half value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

__device__ __forceinline__ float widened(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

// CuPy compiles with -ftz=true, so a plain conversion turns denormals into zeros. The exact parts of the
// kernels therefore convert by these functions only.
__device__ __forceinline__ double wide(float value) {
  double result;
  asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(value));
  return result;
}

__device__ __forceinline__ float narrow(double value) {
  float result;
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(value));
  return result;
}

// Store a number that is not read again soon, without filling the cache.
__device__ __forceinline__ void store_streamed(float* to, float value) { __stcs(to, value); }

#if __CUDA_ARCH__ >= 800
#define MEDVLAD_TENSOR_CORES 1

// Return the nearest number of 11 significant bits. Ties go away from zero.
__device__ __forceinline__ float rounded_to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

// sums (16 x 8) += a (16 x 8) times b (8 x 8). The 32 threads of a warp share the work. Thread 4 g + t holds
//   a:    (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)
//   b:    (t, g), (t + 4, g)
//   sums: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
__device__ __forceinline__ void multiply_add_tf32(float (&sums)[4], const float (&a)[4],
                                                  const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#else
#define MEDVLAD_FLOAT32_UNITS 1
#endif
