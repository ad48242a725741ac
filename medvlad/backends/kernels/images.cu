// VLAD of many images in one launch: a block computes the labels, then the residuals, of one image.
//
// A block reads its rows from memory once, for the labels. For the residuals they come from the cache, if the
// images that run at the same time fit into it.
#include <assign.cuh>
#include <decide.cuh>
#include <encode.cuh>

namespace {

constexpr int kDims = 16;
constexpr int kWarps = kAssignThreads / kWarp;

template <class Multiply, class T>
__device__ void encode_image(const Batch<T>& batch, const CandidateCenters& rounded,
                             const ExactCenters& exact, int* labels, uint64* candidates, int* unbounded) {
  __shared__ int64 queues[kWarps][kQueue];
  int64* queue = queues[warp_of_block()];
  const int64 image = blockIdx.x, begin = batch.offsets[image], end = batch.offsets[image + 1];
  for (int64 row = begin; row < end; row += rounded.rows()) {
    assign_rows<Multiply>(batch.x, end, batch.d, rounded, row, labels, candidates, unbounded);
  }
  __syncthreads();
  for (int64 row = begin + warp_of_block() * kWarp; row < end; row += kAssignThreads) {
    decide_rows(batch.x, end, batch.d, exact, row, candidates, rounded.words(), labels);
  }
  __syncthreads();
  const int n_slices = slices<kDims>(batch), tasks = batch.k * n_slices;
  if (batch.l2 || batch.intra) {
    for (int task = warp_of_block(); task < tasks; task += kWarps) {
      norm_of_cell<kDims>(batch, image, task / n_slices, task % n_slices, queue);
    }
    __syncthreads();
  }
  const double scale = scale_of(batch, image);
  for (int task = warp_of_block(); task < tasks; task += kWarps) {
    write_cell<kDims>(batch, image, task / n_slices, task % n_slices, scale, queue);
  }
}

}  // namespace

#define MEDVLAD_IMAGES(name, Multiply)                                                                      \
  extern "C" __global__ void __launch_bounds__(kAssignThreads, 3)                                           \
      name(const Element* x, const int64* offsets, int* labels, const float* centers, int k, int d,         \
           double power, int intra, int l2, double* squared_norms, float* out, int64* counts,               \
           const float* values, const float* half, int k_rounded, int k_padded, int d_padded,               \
           int warps_across, float max_center, float max_center_error, float max_half, float gamma,         \
           const double* half_norms, double max_norm, uint64* candidates, int* unbounded) {                 \
    const Batch<Element> batch{x,     offsets,    labels,  centers,       k,   d,                           \
                               power, intra != 0, l2 != 0, squared_norms, out, counts};                     \
    const CandidateCenters rounded{values,       half,       k_rounded,        k_padded, d_padded,          \
                                   warps_across, max_center, max_center_error, max_half, gamma};            \
    encode_image<Multiply>(batch, rounded, ExactCenters{centers, half_norms, max_norm}, labels, candidates, \
                           unbounded);                                                                      \
  }

#if defined(MEDVLAD_TENSOR_CORES)
MEDVLAD_IMAGES(encode_images_tensor_cores, TensorCores)
#endif
#if defined(MEDVLAD_FLOAT32_UNITS)
MEDVLAD_IMAGES(encode_images_float32_units, Float32Units)
#endif
