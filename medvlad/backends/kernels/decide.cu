// Kernel that labels rows, exact decision.
#include <decide.cuh>

namespace {
constexpr int kThreads = 128;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    decide(const Element* x, int64 n, int d, const float* values, const double* half_norms, double max_norm,
           const uint64* candidates, int words, int* labels) {
  const int64 warp = static_cast<int64>(blockIdx.x) * (kThreads / kWarp) + warp_of_block();
  const ExactCenters centers{values, half_norms, max_norm};
  decide_rows(x, n, d, centers, warp * kWarp, candidates, words, labels);
}
