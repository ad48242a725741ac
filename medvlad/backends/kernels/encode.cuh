// VLAD of images with known labels: summed residuals, power, intra- and L2 normalisation.
//
//   V_k = sum over rows x of the image with label k of (x - c_k) = (sum of x) - n_k c_k
//
// is summed in float64, in the order of the rows, so every run and the CPU give the same bits. The output is
// written once. Normalisation needs the squared norm of each cell before that, so a first pass over the rows
// computes it. A warp finds the rows of its cell by reading the image's labels, 32 at a time.
//
// Intra-normalisation leaves zeros if V_k is rounding only: |V_k| <= 2^-22 n_k |c_k|. The first pass
// therefore also computes the excess |V_k|^2 - (2^-22 n_k |c_k|)^2, before the power.
#pragma once

#include <instructions.cuh>
#include <normalise.cuh>
#include <warp.cuh>

namespace {

constexpr int kAhead = 4;          // number of labels that a thread reads before it uses them
constexpr int kQueue = 2 * kWarp;  // size of the queue of rows that wait to be summed
constexpr int kNormDims = 4;       // number of dimensions of a thread in one part of a norm

template <class T>
struct Batch {
  const T* x;            // (n, d)
  const int64* offsets;  // (images + 1)
  const int* labels;     // (n)
  const float* centers;  // (k, d)
  int k, d;
  double power;
  bool intra, l2;
  double* squared_norms;  // (images, k, parts), after power. If intra: (images, k, 2 parts), then the excess
  float* out;             // (images, k * d)
  int64* counts;          // (images, k), or null
};

// The cell of a warp. A lane holds dimensions first_dim + lane + 32 i of the residual, for i < kDims.
template <int kDims, class T>
struct Cell {
  const Batch<T>& batch;
  int64 image;
  int k, first_dim;
  int64* queue;  // of kQueue rows, not shared with other warps
  double v[kDims] = {};
  int64 count = 0;

  // Set v to the summed residual.
  __device__ void sum() {
    const int64 last = batch.offsets[image + 1];
    int queued = 0;
    for (int64 base = batch.offsets[image]; base < last; base += kAhead * kWarp) {
      int labels[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int64 row = base + a * kWarp + lane_of_warp();
        labels[a] = row < last ? batch.labels[row] : -1;
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const unsigned mine = __ballot_sync(kWholeWarp, labels[a] == k);
        const unsigned before = mine & ((1U << lane_of_warp()) - 1U);
        if (labels[a] == k) queue[queued + __popc(before)] = base + a * kWarp + lane_of_warp();
        queued += __popc(mine);
        __syncwarp();
        if (queued >= kWarp) {
          add_rows(kWarp);
          queued -= kWarp;
          __syncwarp();
          const int64 moved = lane_of_warp() < queued ? queue[kWarp + lane_of_warp()] : 0;
          __syncwarp();
          queue[lane_of_warp()] = moved;
          __syncwarp();
        }
      }
    }
    add_rows(queued);
    __syncwarp();
    if (count == 0) return;
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      const int j = dim(i);
      if (j < batch.d) {
        const double center = wide(batch.centers[static_cast<int64>(k) * batch.d + j]);
        v[i] = fma(-static_cast<double>(count), center, v[i]);  // the product is exact
      }
    }
  }

  __device__ void apply_power() {
    if (batch.power == 1.0 || count == 0) return;
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      if (dim(i) < batch.d) v[i] = signed_power(v[i], batch.power);
    }
  }

  // Return the excess over the same dimensions as `squared_norm`. It is not above 0 if V_k is rounding only.
  __device__ double excess(int part) const {
    const double reach = kCenterRounding * static_cast<double>(count), most = reach * reach;
    double sum = 0.0;
#pragma unroll
    for (int i = part * kNormDims; i < (part + 1) * kNormDims; ++i) {
      if (dim(i) < batch.d) {
        const double center = wide(batch.centers[static_cast<int64>(k) * batch.d + dim(i)]);
        sum += v[i] * v[i] - most * (center * center);
      }
    }
    return sum_over(kWarp, sum);
  }

  // Return |V_k|^2 over 128 dimensions, from first_dim + 128 part. The sum does not depend on the slice
  // width.
  __device__ double squared_norm(int part) const {
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < kNormDims; ++i) {
      const double value = v[part * kNormDims + i];
      sum = fma(value, value, sum);
    }
    return sum_over(kWarp, sum);
  }

  __device__ void write(double scale) const {
    float* to = batch.out + (image * batch.k + k) * batch.d;
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      if (dim(i) < batch.d) store_streamed(to + dim(i), narrow(v[i] * scale));
    }
  }

 private:
  __device__ int dim(int i) const { return first_dim + lane_of_warp() + i * kWarp; }

  // Add the first m queued rows in their order. Several rows are read before they are added.
  __device__ void add_rows(int m) {
    constexpr int kRows = 32 / kDims;
    for (int first = 0; first < m; first += kRows) {
      float values[kRows][kDims];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const T* row = batch.x + (first + r < m ? queue[first + r] : 0) * batch.d;
#pragma unroll
        for (int i = 0; i < kDims; ++i) {
          values[r][i] = first + r < m && dim(i) < batch.d ? widened(row[dim(i)]) : 0.0F;
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kDims; ++i) v[i] += wide(values[r][i]);
      }
    }
    count += m;
  }
};

// Number of dimensions of a slice.
template <int kDims>
constexpr int kSlice = kDims * kWarp;

template <int kDims, class T>
__device__ int slices(const Batch<T>& batch) {
  return (batch.d + kSlice<kDims> - 1) / kSlice<kDims>;
}

template <class T>
__device__ int norm_parts(const Batch<T>& batch) {
  return slices<kNormDims>(batch);
}

// Return where the squared norms of the parts of a cell are stored. Those of the excess follow if intra.
template <class T>
__device__ double* parts_of(const Batch<T>& batch, int64 image, int k) {
  const int n = norm_parts(batch);
  return batch.squared_norms + (image * batch.k + k) * (batch.intra ? 2 * n : n);
}

// Return |V_k|^2 of one cell. Its parts are added in order.
template <class T>
__device__ double squared_norm_of(const Batch<T>& batch, int64 image, int k) {
  const int n = norm_parts(batch);
  const double* parts = parts_of(batch, image, k);
  double sum = 0.0;
  for (int s = 0; s < n; ++s) sum += parts[s];
  return sum;
}

// Return the factor of the intra-normalisation of one cell, whose squared norm is `squared`.
template <class T>
__device__ double intra_scale_of(const Batch<T>& batch, int64 image, int k, double squared) {
  const int n = norm_parts(batch);
  const double* parts = parts_of(batch, image, k) + n;
  double sum = 0.0;
  for (int s = 0; s < n; ++s) sum += parts[s];
  return sum > 0.0 ? inverse_norm(squared) : 0.0;
}

// Return the factor of the L2 normalisation.
template <class T>
__device__ double scale_of(const Batch<T>& batch, int64 image) {
  if (!batch.l2) return 1.0;
  double sum = 0.0;
  for (int k = lane_of_warp(); k < batch.k; k += kWarp) {
    const double squared = squared_norm_of(batch, image, k);
    const double scale = batch.intra ? intra_scale_of(batch, image, k, squared) : 1.0;
    sum += squared * scale * scale;
  }
  return inverse_norm(sum_over(kWarp, sum));
}

template <int kDims, class T>
__device__ void norm_of_cell(const Batch<T>& batch, int64 image, int k, int slice, int64* queue) {
  Cell<kDims, T> cell{batch, image, k, slice * kSlice<kDims>, queue};
  cell.sum();
  const int n = norm_parts(batch), first = slice * (kDims / kNormDims);
  double* parts = parts_of(batch, image, k) + first;
  if (batch.intra) {
#pragma unroll
    for (int part = 0; part < kDims / kNormDims; ++part) {
      const double excess = cell.excess(part);
      if (lane_of_warp() == 0 && first + part < n) parts[n + part] = excess;
    }
  }
  cell.apply_power();
#pragma unroll
  for (int part = 0; part < kDims / kNormDims; ++part) {
    const double squared = cell.squared_norm(part);
    if (lane_of_warp() == 0 && first + part < n) parts[part] = squared;
  }
}

template <int kDims, class T>
__device__ void write_cell(const Batch<T>& batch, int64 image, int k, int slice, double scale, int64* queue) {
  Cell<kDims, T> cell{batch, image, k, slice * kSlice<kDims>, queue};
  cell.sum();
  cell.apply_power();
  if (batch.intra) scale *= intra_scale_of(batch, image, k, squared_norm_of(batch, image, k));
  cell.write(scale);
  if (batch.counts != nullptr && slice == 0 && lane_of_warp() == 0) {
    batch.counts[image * batch.k + k] = cell.count;
  }
}

}  // namespace
