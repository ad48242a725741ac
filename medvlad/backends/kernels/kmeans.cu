// Distances for k-means, summed in the order that all backends use (reference.py): eight running sums in
// float64, added by halves, then the last d mod 8 terms one by one. Seeds and inertia therefore agree with
// the CPU to the bit. Eight threads share a row. The compiler must not fuse products and sums.
#include <instructions.cuh>
#include <warp.cuh>

namespace {

constexpr int kThreads = 256;
constexpr int kSums = 8;
constexpr int kCandidates = 8;  // number of candidates that are computed together
constexpr int kRunRows = 1024;  // number of rows whose distances are added before the runs are added
constexpr double kUnitRoundoff = 1.1102230246251565e-16;

__device__ __forceinline__ int64 row_of_thread() {
  return (static_cast<int64>(blockIdx.x) * kThreads + threadIdx.x) / kSums;
}
__device__ __forceinline__ int lane_of_row() { return static_cast<int>(threadIdx.x) % kSums; }

}  // namespace

// distances (n): |x_i - c|^2 for the centre c of label i. There are per_row labels for each row of x.
extern "C" __global__ void __launch_bounds__(kThreads)
    squared_distances(const float* x, int64 n, int per_row, int d, const float* centers, const int* labels,
                      double* distances) {
  const int64 row = row_of_thread();
  // Threads without a row must take part in the shuffles, so they repeat the last row.
  const int64 own = row < n ? row : n - 1;
  const float* values = x + (per_row == 1 ? own : own / per_row) * d;
  const float* center = centers + static_cast<int64>(labels[own]) * d;
  const auto term = [&](int j) {
    const double difference = wide(values[j]) - wide(center[j]);
    return difference * difference;
  };
  double sum = 0.0;
  const int whole = d - d % kSums;
  for (int j = lane_of_row(); j < whole; j += kSums) sum = __dadd_rn(sum, term(j));
  sum = sum_over(kSums, sum);
  for (int j = whole; j < d; ++j) sum = __dadd_rn(sum, term(j));
  if (row < n && lane_of_row() == 0) distances[row] = sum;
}

// distances (t, n): min(closest, |x - c|^2) for each candidate c, a row of x. A squared distance within its
// rounding error of 0 counts as 0.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    candidate_distances(const float* x, int64 n, int d, const double* norms, const int64* candidates,
                        int n_candidates, const double* closest, double* distances) {
  const int64 row = row_of_thread();
  const int64 own = row < n ? row : n - 1;
  const float* values = x + own * d;
  const double rounding = 4 * (d + 4) * kUnitRoundoff;
  const int whole = d - d % kSums;
  for (int first = 0; first < n_candidates; first += kCandidates) {
    double sums[kCandidates] = {};
    const float* centers[kCandidates];
#pragma unroll
    for (int c = 0; c < kCandidates; ++c) {
      centers[c] = x + candidates[first + c < n_candidates ? first + c : first] * d;
    }
    // A product of two float32 is exact in float64, so fma gives the same bits as a product and a sum.
    for (int j = lane_of_row(); j < whole; j += kSums) {
      const double value = wide(values[j]);
#pragma unroll
      for (int c = 0; c < kCandidates; ++c) sums[c] = fma(value, wide(centers[c][j]), sums[c]);
    }
#pragma unroll
    for (int c = 0; c < kCandidates; ++c) {
      double sum = sum_over(kSums, sums[c]);
      for (int j = whole; j < d; ++j) {
        sum = fma(wide(values[j]), wide(centers[c][j]), sum);
      }
      if (row < n && lane_of_row() == 0 && first + c < n_candidates) {
        const double scale = __dadd_rn(norms[row], norms[candidates[first + c]]);
        const double squared = __dadd_rn(scale, -2.0 * sum);
        const double distance = squared > rounding * scale ? squared : 0.0;
        distances[(first + c) * n + row] = fmin(distance, closest[row]);
      }
    }
  }
}

// sums (t, runs) of runs of kRunRows distances (t, n), each added in order by one thread.
extern "C" __global__ void __launch_bounds__(kThreads)
    run_sums(const double* distances, int64 n, int n_candidates, double* sums) {
  const int64 runs = (n + kRunRows - 1) / kRunRows;
  const int64 task = static_cast<int64>(blockIdx.x) * kThreads + threadIdx.x;
  if (task >= n_candidates * runs) return;
  const double* from = distances + task / runs * n;
  const int64 first = task % runs * kRunRows, last = first + kRunRows < n ? first + kRunRows : n;
  double sum = 0.0;
  for (int64 row = first; row < last; ++row) sum = __dadd_rn(sum, from[row]);
  sums[task] = sum;
}
