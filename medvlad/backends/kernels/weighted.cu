// VLAD of descriptors that have weights or belong to several cells, and the distances that give the weights.
//
// Entry e of x's row i = e / r says that the row belongs to cell a_e with weight w_e and scale s_e:
//
//   V_k = sum over entries of cell k of (w_e s_e) (x_i - c_k),  m_k = sum of w_e,  reach_k = sum of |w_e s_e|
//
// Each is summed in float64 in the order of the rows, and every product and sum is rounded by itself as in
// medvlad/backends/reference.py. The sums are therefore those of the reference and of the CPU to the bit.
//
// weighted_sums     a warp sums one cell of one image, 128 dimensions of it
// normalise_cells   a warp clears a cell that is rounding only, divides by the mass, applies the power, and
//                   returns the squared norm. The sums stay in memory in float64 in between, because these
//                   steps need whole cells.
// write_weighted    a warp scales a cell to unit length, and the image, and rounds to float32
//
// center_distances fills (n, k) squared distances, each by one thread in the order of the dimensions. A block
// has a tile of rows and centres in shared memory.
#include <instructions.cuh>
#include <normalise.cuh>
#include <warp.cuh>

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDims = 4;  // dimensions of a lane
constexpr int kSlice = kDims * kWarp;
constexpr int kQueue = 2 * kWarp;
constexpr int kAhead = 4;  // number of cells that a thread reads before it uses them
constexpr int kRows = 4;   // number of rows that are read before they are added
constexpr int kSums = 8;   // running sums of a squared norm (ordered_sum in normalise.py)
constexpr int kTile = 32;  // rows, and centres, of a block of center_distances
constexpr int kDepth = 16;
constexpr int kStride = kDepth + 1;  // of a row in shared memory

// Entries of a warp's cell that wait to be summed.
struct Queue {
  int64 rows[kQueue];
  double weights[kQueue], factors[kQueue];
};

template <class T>
struct WeightedCell {
  const T* x;
  int d, first_dim;
  Queue& queue;
  double center[kDims];
  double v[kDims] = {};
  double mass = 0.0, reach = 0.0;

  __device__ int dim(int i) const { return first_dim + lane_of_warp() + i * kWarp; }

  // Add the first m queued rows in their order.
  __device__ void add_rows(int m) {
    for (int first = 0; first < m; first += kRows) {
      float values[kRows][kDims];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const T* row = x + (first + r < m ? queue.rows[first + r] : 0) * d;
#pragma unroll
        for (int i = 0; i < kDims; ++i) {
          values[r][i] = first + r < m && dim(i) < d ? widened(row[dim(i)]) : 0.0F;
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first + r >= m) break;
        const double factor = queue.factors[first + r];
        mass += queue.weights[first + r];
        reach += fabs(factor);
#pragma unroll
        for (int i = 0; i < kDims; ++i) {
          v[i] += factor * (wide(values[r][i]) - center[i]);
        }
      }
    }
  }

  // Move the `left` entries from kWarp on to the front.
  __device__ void drop_first_rows(int left) {
    const int to = lane_of_warp(), from = kWarp + to;
    if (to < left) {
      queue.rows[to] = queue.rows[from];
      queue.weights[to] = queue.weights[from];
      queue.factors[to] = queue.factors[from];
    }
    __syncwarp();
  }
};

// Return the sum of the squares of d numbers in the order of ordered_sum: of `second` where is_second is set,
// and of `first` elsewhere. is_second must be the same for each 8 neighbouring threads.
template <class First, class Second>
__device__ double ordered_squares(int d, bool is_second, First first, Second second) {
  const auto square = [&](int j) {
    const double value = is_second ? second(j) : first(j);
    return value * value;
  };
  const int whole = d - d % kSums;
  double sum = 0.0;
  for (int j = lane_of_warp() % kSums; j < whole; j += kSums) sum = __dadd_rn(sum, square(j));
  sum = sum_over(kSums, sum);
  for (int j = whole; j < d; ++j) sum = __dadd_rn(sum, square(j));
  return sum;
}

__device__ __forceinline__ int warp_of_grid() {
  return static_cast<int>(blockIdx.x) * kWarps + warp_of_block();
}

}  // namespace

// cells, weights and scales are (n, per_row); scales is null if all are 1. offsets has the images of the
// grid's second dimension. Fills sums (images, k, d), and masses and reaches (images, k).
extern "C" __global__ void __launch_bounds__(kThreads)
    weighted_sums(const Element* x, const int64* offsets, const int* cells, const double* weights,
                  const double* scales, int per_row, const float* centers, int k, int d, double* sums,
                  double* masses, double* reaches) {
  __shared__ Queue queues[kWarps];
  const int slices = (d + kSlice - 1) / kSlice, task = warp_of_grid();
  if (task >= k * slices) return;
  const int cell = task / slices, slice = task % slices;
  const int64 image = blockIdx.y, at = image * k + cell, last = offsets[image + 1] * per_row;
  Queue& queue = queues[warp_of_block()];
  WeightedCell<Element> sum{x, d, slice * kSlice, queue, {}};
#pragma unroll
  for (int i = 0; i < kDims; ++i) {
    if (sum.dim(i) < d) sum.center[i] = wide(centers[static_cast<int64>(cell) * d + sum.dim(i)]);
  }
  int queued = 0;
  for (int64 base = offsets[image] * per_row; base < last; base += kAhead * kWarp) {
    int own[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64 entry = base + a * kWarp + lane_of_warp();
      own[a] = entry < last ? cells[entry] : -1;
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64 entry = base + a * kWarp + lane_of_warp();
      const double weight = own[a] == cell ? weights[entry] : 0.0;
      const unsigned members = __ballot_sync(kWholeWarp, weight != 0.0);
      if (weight != 0.0) {
        const int place = queued + __popc(members & ((1U << lane_of_warp()) - 1U));
        queue.rows[place] = per_row == 1 ? entry : entry / per_row;
        queue.weights[place] = weight;
        queue.factors[place] = scales == nullptr ? weight : weight * scales[entry];
      }
      queued += __popc(members);
      __syncwarp();
      if (queued >= kWarp) {
        sum.add_rows(kWarp);
        queued -= kWarp;
        __syncwarp();
        sum.drop_first_rows(queued);
      }
    }
  }
  sum.add_rows(queued);
#pragma unroll
  for (int i = 0; i < kDims; ++i) {
    if (sum.dim(i) < d) sums[at * d + sum.dim(i)] = sum.v[i];
  }
  if (slice == 0 && lane_of_warp() == 0) {
    masses[at] = sum.mass;
    reaches[at] = sum.reach;
  }
}

// Changes sums (images, k, d). Fills cell_scales (images, k), and squared_norms (images, k) after all steps
// before the L2 normalisation.
extern "C" __global__ void __launch_bounds__(kThreads)
    normalise_cells(const float* centers, int k, int d, const double* masses, const double* reaches,
                    double power, int mass_norm, int intra, double* sums, double* squared_norms,
                    double* cell_scales) {
  const int cell = warp_of_grid();
  if (cell >= k) return;
  const int64 at = static_cast<int64>(blockIdx.y) * k + cell;
  double* v = sums + at * d;
  double factor = 1.0;
  if (intra != 0) {
    const float* center = centers + static_cast<int64>(cell) * d;
    const bool is_center = lane_of_warp() / kSums % 2 != 0;
    const double own =
        ordered_squares(d, is_center, [&](int j) { return v[j]; }, [&](int j) { return wide(center[j]); });
    const double other = __shfl_xor_sync(kWholeWarp, own, kSums);
    const double most = kCenterRounding * reaches[at];
    if ((is_center ? other : own) <= most * most * (is_center ? own : other)) factor = 0.0;
  }
  if (mass_norm != 0) factor *= fabs(masses[at]) >= kNormFloor ? 1.0 / masses[at] : 0.0;
  double squared = 0.0;
  for (int j = lane_of_warp(); j < d; j += kWarp) {
    double value = v[j] * factor;
    if (power != 1.0) value = signed_power(value, power);
    v[j] = value;
    squared = fma(value, value, squared);
  }
  squared = sum_over(kWarp, squared);
  const double scale = intra != 0 ? inverse_norm(squared) : 1.0;
  if (lane_of_warp() == 0) {
    squared_norms[at] = squared * scale * scale;
    cell_scales[at] = scale;
  }
}

// out (images, k * d) = sums, scaled. If squared_norms is null, sums are only rounded.
extern "C" __global__ void __launch_bounds__(kThreads)
    write_weighted(const double* sums, const double* squared_norms, const double* cell_scales, int k, int d,
                   int l2, float* out) {
  const int cell = warp_of_grid();
  if (cell >= k) return;
  const int64 image = blockIdx.y, at = image * k + cell;
  double scale = squared_norms == nullptr ? 1.0 : cell_scales[at];
  if (l2 != 0) {
    double squared = 0.0;
    for (int i = lane_of_warp(); i < k; i += kWarp) squared += squared_norms[image * k + i];
    scale *= inverse_norm(sum_over(kWarp, squared));
  }
  for (int j = lane_of_warp(); j < d; j += kWarp) {
    store_streamed(out + at * d + j, narrow(sums[at * d + j] * scale));
  }
}

// distances (n, k): |x_i - c_k|^2. A thread takes two rows and two centres.
extern "C" __global__ void __launch_bounds__(kThreads)
    center_distances(const Element* x, int64 n, int d, const float* centers, int k, double* distances) {
  __shared__ double rows[kTile * kStride], columns[kTile * kStride];
  constexpr int kSide = kTile / 2, kLoads = kTile * kDepth / kThreads;
  const int thread = static_cast<int>(threadIdx.x), across = thread % kSide, down = thread / kSide;
  const int64 first_row = static_cast<int64>(blockIdx.x) * kTile;
  const int first_center = static_cast<int>(blockIdx.y) * kTile;
  double sums[2][2] = {};
  for (int first = 0; first < d; first += kDepth) {
    __syncthreads();
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int at = (thread + load * kThreads) / kDepth, j = first + thread % kDepth;
      const int place = at * kStride + thread % kDepth;
      const int64 row = first_row + at;
      const int center = first_center + at;
      rows[place] = row < n && j < d ? wide(widened(x[row * d + j])) : 0.0;
      columns[place] = center < k && j < d ? wide(centers[static_cast<int64>(center) * d + j]) : 0.0;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
#pragma unroll
      for (int a = 0; a < 2; ++a) {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          const double difference =
              rows[(down + a * kSide) * kStride + j] - columns[(across + b * kSide) * kStride + j];
          sums[a][b] = fma(difference, difference, sums[a][b]);
        }
      }
    }
  }
#pragma unroll
  for (int a = 0; a < 2; ++a) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int64 row = first_row + down + a * kSide;
      const int center = first_center + across + b * kSide;
      if (row < n && center < k) distances[row * k + center] = sums[a][b];
    }
  }
}
