// Networks of 3 x 3 convolutions (stride 1, zero padding, bias, optional ReLU) and 2 x 2 maximum pooling,
// such as VGG16 and VGG19.
//
// Mathematics. A direct convolution needs 9 multiplications for each output and input channel. Winograd's
// algorithm F(4x4, 3x3) needs 36 for 16 outputs, which is a quarter:
//
//   Y = A^T [ (G g G^T) * (B^T d B) ] A
//
//   d  patch of the input, 6 x 6            U = G g G^T  transformed kernel, 6 x 6
//   g  kernel, 3 x 3                        V = B^T d B  transformed patch, 6 x 6
//   Y  tile of outputs, 4 x 4               M = U * V    summed over the C input channels
//   *  element-wise product                 D            number of output channels
//
// M is therefore 36 products of matrices, (tiles x C) times (C x D), one for each of the 36 points of a
// patch.
//
// The matrices come from polynomials evaluated at the points x in {0, a, -a, b, -b, infinity}, see
// winograd_points.hpp. The row of G for a finite point x is (1, x, x^2) / N(x), where N(x) is the product of
// (x - x') over the other finite points x'. The row of B^T holds the coefficients of that product as a
// polynomial; for infinity, of the product over all five finite points. A^T holds the powers 1, x, x^2, x^3.
//
// Costs of one tile of 16 outputs:
//
//   products      72 C D operations
//   transforms    144 C + 120 D operations: 11 % of the products for C = D = 64, 1.4 % for 512
//   memory        V: 144 C bytes;  M: 144 D bytes;  U: 144 C D bytes for a layer
//
// U is computed once in float64 and rounded once to float32. It takes 0.6 MB for C = D = 64, which fits into
// a second-level cache, and 38 MB for 512, which does not. So there are two ways to compute a layer:
//
//   by tiles      For small C. A thread takes as many tiles as keep V and a part of M (64 channels) in its
//                 second-level cache, and does all three steps for them. U is read once for these tiles.
//   by points     For large C. All threads together compute V of some hundred tiles, then M, then the
//   outputs.
//                 A thread multiplies V of one point (at most 0.8 MB, in cache) by a part of U of that point.
//                 U is read once for all these tiles, while V and M go through memory. The inputs of the next
//                 product are prefetched: the products then run at 0.97 of the peak rate instead of 0.86.
//
// The images of a batch share each reading of U. Maps are stored channels last (NHWC), and the number of
// channels is rounded up to a multiple of 16.
//
// Every sum is computed by one thread in a fixed order, so results depend on neither the number of threads
// nor the batch. AVX2 and AVX-512 give the same bits. The portable module has no fused multiply-add and
// rounds products as well, so its bits differ.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "conv_kernels.hpp"
#include "large_buffer.hpp"

namespace medvlad {

// A convolution, or 2 x 2 maximum pooling if `kernel` is nullptr. ConvNet copies the arrays.
struct Layer {
  const float* kernel;  // (3, 3, n_in, n_out)
  const float* bias;    // (n_out,)
  std::int64_t n_in, n_out;
  bool has_relu;
};

class ConvNet {
 public:
  // Build the network from consecutive layers, for images with n_channels channels. Throws
  // std::invalid_argument if the channels of consecutive layers differ.
  ConvNet(const std::vector<Layer>& layers, std::int64_t n_channels);
  ~ConvNet();

  // The shape of the output for images (n, h, w, n_channels). h or w is 0 if too little is left to pool.
  Maps shape_of_output(std::int64_t n, std::int64_t h, std::int64_t w) const;

  // Run the network on images (n, h, w, n_channels) and write `out`. Several threads may call it at once.
  void run(const float* images, std::int64_t n, std::int64_t h, std::int64_t w, int n_threads,
           float* out) const;

  std::int64_t n_channels() const { return n_channels_; }

 private:
  struct Step;
  struct Workspace;
  class NetworkRun;

  std::int64_t n_channels_, n_out_;
  std::vector<Step> steps_;
  // Buffers kept for the next call, because allocating them again takes a tenth of the time of a call.
  mutable std::mutex mutex_;
  mutable std::unique_ptr<Workspace> spare_;
};

}  // namespace medvlad
