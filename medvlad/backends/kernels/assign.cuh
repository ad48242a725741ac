// Nearest centres, first pass: scores on the tensor cores or in float32, and the centres that may win.
//
// Let mu be near the mean of the centres, c'_k = c_k - mu, b_k = round(c'_k) and y = round(x). round is to
// tf32, or does nothing in float32. Except for a term that all centres of a row share, the score of a centre
// is
//
//   x.c'_k - h_k = y.b_k - h_k + (x - y).b_k + x.(c'_k - b_k),    h_k = (|c_k|^2 - |mu|^2) / 2,
//
// By the Cauchy-Schwarz inequality, the error of y.b_k - h_k is at most
//
//   E = |x - y| max|b_k| + |x| max|c'_k - b_k| + gamma (|x| max|b_k| + max|h_k|) + underflow.
//
// |x - y| and |x| are measured while the row is read. gamma = (D + 16) 2^-22 for tensor cores. Their products
// are exact. One instruction adds 9 numbers: aligning them costs each at most 2^-23 of the largest, and so
// does rounding the result (Fasi, Higham, Mikaitis, Pranesh, PeerJ Comput. Sci. 7, 2021). For float32, gamma
// = (D + 16) 2^-24. A centre whose score is more than 2 E below the best cannot win. If other centres are
// left, they are marked as candidates, and decide.cuh decides between them. The host computes the terms that
// depend on the centres only (medvlad/backends/candidate_centers.py).
//
// A block of four warps takes 128 rows x 64 centres, or 64 x 128. Each warp takes 32 x 64, in steps of 16
// numbers. The next step is read from memory while this one is multiplied. Scores stay in registers.
#pragma once

#include <instructions.cuh>
#include <warp.cuh>

namespace {

constexpr int kAssignThreads = 128;
constexpr int kDepth = 16;
constexpr int kStride =
    kDepth + 4;  // of a row in shared memory; the threads of a fragment use different banks
constexpr int kWarpRows = 32, kWarpCenters = 64;
constexpr int kMostRows = 128;
constexpr int kTileRows = 192;                            // rows and centres together
constexpr int kLoadThreads = kDepth / 4;                  // threads that read a row, 4 numbers each
constexpr int kLoadRows = kAssignThreads / kLoadThreads;  // rows read at a time
constexpr int kLoads = kTileRows / kLoadRows;             // reads per tile
constexpr int kRowLoads = kMostRows / kLoadRows;

constexpr float kLowest = -3.402823466e38F;
constexpr float kSmallest = 1.175494351e-38F;

typedef float Scores[2][8][4];  // of a thread, in the layout of multiply_add_tf32

#if defined(MEDVLAD_TENSOR_CORES)
struct TensorCores {
  static __device__ float rounded(float value) { return rounded_to_tf32(value); }

  // scores += rows (32 x kDepth) times centers (64 x kDepth), both in shared memory.
  static __device__ void multiply(const float* rows, const float* centers, Scores& scores) {
    const int g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int j = 0; j < kDepth; j += 8) {
      float a[2][4], b[2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[m][i] = rows[(m * 16 + g + i % 2 * 8) * kStride + j + t + i / 2 * 4];
        }
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        b[0] = centers[(n * 8 + g) * kStride + j + t];
        b[1] = centers[(n * 8 + g) * kStride + j + t + 4];
        multiply_add_tf32(scores[0][n], a[0], b);
        multiply_add_tf32(scores[1][n], a[1], b);
      }
    }
  }
};
#endif

#if defined(MEDVLAD_FLOAT32_UNITS)
struct Float32Units {
  static __device__ float rounded(float value) { return value; }

  static __device__ void multiply(const float* rows, const float* centers, Scores& scores) {
    const int g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll 4
    for (int j = 0; j < kDepth; ++j) {
      float a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = rows[(i * 8 + g) * kStride + j];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float b = centers[(n * 8 + 2 * t + e) * kStride + j];
#pragma unroll
          for (int i = 0; i < 4; ++i)
            scores[i / 2][n][i % 2 * 2 + e] = fmaf(a[i], b, scores[i / 2][n][i % 2 * 2 + e]);
        }
      }
    }
  }
};
#endif

// Read numbers [j, j + 4) of a row of d numbers. Beyond its end they are zeros.
template <class T>
__device__ __forceinline__ void read_four(const T* row, int j, int d, bool whole_words, float (&values)[4]) {
  struct alignas(4 * sizeof(T)) Four {
    T value[4];
  };
  if (whole_words && j + 4 <= d) {
    const Four four = *reinterpret_cast<const Four*>(row + j);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = widened(four.value[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = j + i < d ? widened(row[j + i]) : 0.0F;
  }
}

// The two largest scores of a row, and the index of the largest.
struct Best {
  float first, second;
  int index;

  __device__ void add(float score, int k) {
    if (score > first) {
      second = first;
      first = score;
      index = k;
    } else if (score > second) {
      second = score;
    }
  }

  __device__ void add(const Best& other) {
    if (other.first > first) {
      second = fmaxf(first, other.second);
      first = other.first;
      index = other.index;
    } else {
      second = fmaxf(second, other.first);
    }
  }
};

// An upper bound of the root of a sum of d squares that was computed in float32.
__device__ __forceinline__ float norm_bound(float squares, int d) {
  return sqrtf(squares * (1.0F + 1e-7F * static_cast<float>(d + 32)) + kSmallest * static_cast<float>(d)) *
         1.000001F;
}

// A number that is at most `value`.
__device__ __forceinline__ float rounded_down(float value) {
  return value - fabsf(value) * 4.8e-7F - kSmallest;
}

// Centres from candidate_centers.py: rounded values (k_padded, d_padded), half norms (k_padded), which are
// infinite in the padding, and the terms of the bound.
struct CandidateCenters {
  const float* values;
  const float* half;
  int k, k_padded, d_padded;
  int warps_across;
  float max_center, max_center_error, max_half, gamma;

  // Number of rows of a block.
  __device__ int rows() const { return kMostRows / warps_across; }

  // Number of words of 64 candidate bits for a row.
  __device__ int words() const { return k_padded / kWarpCenters; }
};

// Label rows [first_row, first_row + centers.rows()) of x (n, d) with all threads of the block.
// labels (n): the index of the best centre, or -1 minus this index if other candidates are left.
// candidates (n, words): bits of the centres that may win.
// unbounded: set to 1 if a row's bound is not finite. Such a row may hold NaN or infinity.
template <class Multiply, class T>
__device__ void assign_rows(const T* x, int64 n, int d, const CandidateCenters& c, int64 first_row,
                            int* labels, uint64* candidates, int* unbounded) {
  __shared__ float tile[kTileRows * kStride];
  __shared__ Best best[kMostRows], part[2][kMostRows];
  __shared__ float error[kMostRows], threshold[kMostRows];

  const int thread = static_cast<int>(threadIdx.x), lane = lane_of_warp(), g = lane / 4, t = lane % 4;
  const int rows = c.rows(), warps_across = c.warps_across;
  const int warp_row = warp_of_block() / warps_across * kWarpRows, across = warp_of_block() % warps_across;
  const int load_row = thread / kLoadThreads, load_column = thread % kLoadThreads * 4;
  const bool whole_words = d % 4 == 0 && reinterpret_cast<uint64>(x) % (4 * sizeof(T)) == 0;

  float next[kLoads][4], squares[kRowLoads] = {}, lost[kRowLoads] = {};
  for (int center = 0; center < c.k_padded; center += kWarpCenters * warps_across) {
    const auto read = [&](int j) {
#pragma unroll
      for (int s = 0; s < kLoads; ++s) {
        const int at = s * kLoadRows + load_row;
        if (s * kLoadRows < rows) {
          const int64 row = first_row + at;
          read_four(x + row * d, row < n ? j + load_column : d, d, whole_words, next[s]);
        } else {
          const int64 row = center + at - rows;
          read_four(c.values + row * c.d_padded, j + load_column, c.d_padded, true, next[s]);
        }
      }
    };
    Scores scores = {};
    read(0);
    for (int j = 0; j < c.d_padded; j += kDepth) {
      __syncthreads();
#pragma unroll
      for (int s = 0; s < kLoads; ++s) {
        float* to = tile + (s * kLoadRows + load_row) * kStride + load_column;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float value = next[s][i], y = s * kLoadRows < rows ? Multiply::rounded(value) : value;
          to[i] = y;
          if (s < kRowLoads && center == 0) {
            squares[s % kRowLoads] = fmaf(value, value, squares[s % kRowLoads]);
            lost[s % kRowLoads] = fmaf(value - y, value - y, lost[s % kRowLoads]);
          }
        }
      }
      __syncthreads();
      if (j + kDepth < c.d_padded) read(j + kDepth);
      Multiply::multiply(tile + warp_row * kStride, tile + (rows + across * kWarpCenters) * kStride, scores);
    }

    if (center == 0) {
#pragma unroll
      for (int s = 0; s < kRowLoads; ++s) {
        const float norm = norm_bound(sum_over(kLoadThreads, squares[s]), d);
        const float lost_norm = norm_bound(sum_over(kLoadThreads, lost[s]), d);
        const bool bounded = norm * c.max_center + c.max_half < 1e37F && norm * c.max_center_error < 1e37F;
        const float underflow = kSmallest * static_cast<float>(d + 4) * (2.0F + norm + c.max_center);
        const float bound = lost_norm * c.max_center + norm * c.max_center_error +
                            c.gamma * (1.01F * norm * c.max_center + c.max_half) + underflow;
        const int at = s * kLoadRows + load_row;
        if (at < rows && load_column == 0)
          error[at] = bounded ? bound * 1.001F : __uint_as_float(0x7F800000U);
      }
    }
    // For each of its 4 rows, a thread finds the best two of its 16 scores. Then 4 threads combine theirs,
    // then 2 warps.
    const auto score = [&](int i, int m) {
      const int column = center + across * kWarpCenters + m / 2 * 8 + 2 * t + m % 2;
      return scores[i / 2][m / 2][i % 2 * 2 + m % 2] - c.half[column];
    };
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Best own = {kLowest, kLowest, 0};
#pragma unroll
      for (int m = 0; m < 16; ++m)
        own.add(score(i, m), center + across * kWarpCenters + m / 2 * 8 + 2 * t + m % 2);
      for (int apart = 1; apart <= 2; apart *= 2) {
        own.add(Best{__shfl_xor_sync(kWholeWarp, own.first, apart),
                     __shfl_xor_sync(kWholeWarp, own.second, apart),
                     __shfl_xor_sync(kWholeWarp, own.index, apart)});
      }
      if (t == 0) part[across][warp_row + i * 8 + g] = own;
    }
    __syncthreads();
    if (thread < rows) {
      Best so_far = part[0][thread];
      if (warps_across == 2) so_far.add(part[1][thread]);
      if (center > 0) so_far.add(best[thread]);
      best[thread] = so_far;
      threshold[thread] = rounded_down(so_far.first - 2.0F * error[thread]);
    }
    __syncthreads();
    // A later centre may beat the best so far, so these bits may include centres that cannot win.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = warp_row + i * 8 + g;
      uint64 bits = 0;
#pragma unroll
      for (int m = 0; m < 16; ++m) {
        const int column = m / 2 * 8 + 2 * t + m % 2;
        const bool open = !(score(i, m) < threshold[row]) && center + across * kWarpCenters + column < c.k;
        bits |= static_cast<uint64>(open) << column;
      }
      bits |= __shfl_xor_sync(kWholeWarp, bits, 1);
      bits |= __shfl_xor_sync(kWholeWarp, bits, 2);
      if (t == 0 && first_row + row < n) {
        candidates[(first_row + row) * c.words() + center / kWarpCenters + across] = bits;
      }
    }
  }
  if (thread < rows && first_row + thread < n) {
    const bool decided = best[thread].second < threshold[thread];
    labels[first_row + thread] = decided ? best[thread].index : -1 - best[thread].index;
    if (!(error[thread] < -kLowest)) atomicOr(unbounded, 1);
  }
}

}  // namespace
