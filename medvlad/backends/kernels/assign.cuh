// Nearest centres, first pass: scores on the tensor cores (or in float32), and which centres they leave open.
//
// With mu near the mean of the centres, c'_k = c_k - mu, b_k = round(c'_k), y = round(x), where round is to
// tf32 (or nothing, for float32), the score of a centre is, up to a number that the row's centres share,
//
//   x.c'_k - h_k = y.b_k - h_k + (x - y).b_k + x.(c'_k - b_k),    h_k = (|c_k|^2 - |mu|^2) / 2,
//
// so that y.b_k - h_k is off by at most, by Cauchy-Schwarz,
//
//   E = |x - y| max|b_k| + |x| max|c'_k - b_k| + gamma (|x| max|b_k| + max|h_k|) + underflow.
//
// |x - y| and |x| are measured while the row is read. gamma = (D + 16) 2^-22 for tensor cores: their products
// are exact; of the 9 numbers that one instruction adds none loses more than 2^-23 of the largest where they
// are aligned, and its result no more than that (Fasi, Higham, Mikaitis, Pranesh, PeerJ Comput. Sci. 7,
// 2021). For float32 it is (D + 16) 2^-24. A centre whose score is more than 2 E below the best cannot win;
// where others are left, they are marked, and decide.cuh has the last word. The host computes what depends on
// the centres alone (medvlad/backends/candidates.py).
//
// A block of four warps takes 128 rows x 64 centres, or 64 x 128: each warp 32 x 64, in steps of 16 numbers.
// The next step is on its way from memory while this one is multiplied. The scores never leave the registers.
#pragma once

#include <instructions.cuh>
#include <warp.cuh>

namespace {

constexpr int kAssignThreads = 128;
constexpr int kDepth = 16;
constexpr int kStride = kDepth + 4;  // of a row in shared memory: no two threads of a fragment share a bank
constexpr int kWarpRows = 32, kWarpCenters = 64;
constexpr int kMostRows = 128;
constexpr int kTileRows = 192;                            // rows and centres together
constexpr int kLoadThreads = kDepth / 4;                  // of a row, 4 numbers each
constexpr int kLoadRows = kAssignThreads / kLoadThreads;  // read at a time
constexpr int kLoads = kTileRows / kLoadRows;             // for a tile
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

// Numbers [j, j + 4) of a row of d; zeros beyond it.
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

// At least the root of a sum of d squares that was summed in float32.
__device__ __forceinline__ float norm_bound(float squares, int d) {
  return sqrtf(squares * (1.0F + 1e-7F * static_cast<float>(d + 32)) + kSmallest * static_cast<float>(d)) *
         1.000001F;
}

// A number at most `value`.
__device__ __forceinline__ float rounded_down(float value) {
  return value - fabsf(value) * 4.8e-7F - kSmallest;
}

// Centres as candidates.py makes them: values (k_padded, d_padded), rounded, and half (k_padded), infinite
// where there is no centre; what the bound is made of.
struct CandidateCenters {
  const float* values;
  const float* half;
  int k, k_padded, d_padded;
  int warps_across;
  float max_center, max_center_error, max_half, gamma;

  // Rows of a block.
  __device__ int rows() const { return kMostRows / warps_across; }

  // 64 bits of candidates for a row.
  __device__ int words() const { return k_padded / kWarpCenters; }
};

// Labels rows [first_row, first_row + centers.rows()) of x (n, d), by all threads of the block.
// labels (n): the index of the best, or -1 minus it where other candidates are left.
// candidates (n, words): bits of centres that may win, where they are left.
// unbounded: set to 1 where a row's bound is not finite; such a row may hold what is not a number.
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
    // Each thread's best two of its 16 scores for each of its 4 rows; then those of 4 threads, then of 2
    // warps.
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
    // The best so far may be beaten later: these are at least the candidates that count.
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
