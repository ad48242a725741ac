// VLAD of few images, or of large ones, with known labels. A warp takes one cell and 128 of its dimensions.
#include <encode.cuh>

namespace {

constexpr int kDims = 4;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;

// The grid is (tasks / kWarps, images).
template <bool kWrites, class T>
__device__ void one_cell(const Batch<T>& batch) {
  __shared__ int64 queues[kWarps][kQueue];
  int64* queue = queues[warp_of_block()];
  const int n_slices = slices<kDims>(batch);
  const int64 image = blockIdx.y;
  const int task = static_cast<int>(blockIdx.x) * kWarps + warp_of_block();
  if (task >= batch.k * n_slices) return;
  if (kWrites) {
    const double scale = scale_of(batch, image);
    write_cell<kDims>(batch, image, task / n_slices, task % n_slices, scale, queue);
  } else {
    norm_of_cell<kDims>(batch, image, task / n_slices, task % n_slices, queue);
  }
}

}  // namespace

#define MEDVLAD_CELLS(name, kWrites)                                                                      \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                  \
      name(const Element* x, const int64* offsets, const int* labels, const float* centers, int k, int d, \
           double power, int intra, int l2, double* squared_norms, float* out, int64* counts) {           \
    one_cell<kWrites>(Batch<Element>{x, offsets, labels, centers, k, d, power, intra != 0, l2 != 0,       \
                                     squared_norms, out, counts});                                        \
  }

MEDVLAD_CELLS(cell_norms, false)
MEDVLAD_CELLS(write_cells, true)
