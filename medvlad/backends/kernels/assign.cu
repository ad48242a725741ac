// Kernels that label rows, first pass.
#include <assign.cuh>

#define MEDVLAD_ASSIGN(name, Multiply)                                                                       \
  extern "C" __global__ void __launch_bounds__(kAssignThreads, 3)                                            \
      name(const Element* x, int64 n, int d, const float* values, const float* half, int k, int k_padded,    \
           int d_padded, int warps_across, float max_center, float max_center_error, float max_half,         \
           float gamma, int* labels, uint64* candidates, int* unbounded) {                                   \
    const CandidateCenters c{values,           half,     k,    k_padded, d_padded, warps_across, max_center, \
                             max_center_error, max_half, gamma};                                             \
    const int64 first_row = static_cast<int64>(blockIdx.x) * c.rows();                                       \
    assign_rows<Multiply>(x, n, d, c, first_row, labels, candidates, unbounded);                             \
  }

#if defined(MEDVLAD_TENSOR_CORES)
MEDVLAD_ASSIGN(assign_tensor_cores, TensorCores)
#endif
#if defined(MEDVLAD_FLOAT32_UNITS)
MEDVLAD_ASSIGN(assign_float32_units, Float32Units)
#endif
