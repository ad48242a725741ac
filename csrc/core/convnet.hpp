// Networks of 3 x 3 convolutions (stride 1, zeros around, bias, ReLU or not) and 2 x 2 maxima: VGG16, VGG19.
//
// A convolution takes 9 multiplications an output and input channel, and engines that do them stand at 0.8 to
// 0.95 of what a processor can multiply. Winograd's F(4x4, 3x3) takes 36 for 16 outputs, a quarter:
//
//   Y = A^T [ (G g G^T) * (B^T d B) ] A       for a patch d (6 x 6), a kernel g (3 x 3), outputs Y (4 x 4),
//
// where * is number by number, summed over the input channels C: 36 products of matrices, (tiles x C) times
// (C x D). A filter of 3 taps is evaluated at the points x in {0, a, -a, b, -b, inf} as (1, x, x^2), the row
// of G over N(x) = product of (x - x') over the other finite points x'; B^T holds the coefficients of that
// product of polynomials, for inf of all five; A^T the powers 1, x, x^2, x^3.
//
// Counts, for one tile of 16 outputs (a 224 x 224 VGG19: 39 GFLOP as written, 10 here):
//
//   products            72 C D operations; at 175 GFLOP/s, a core with AVX-512: C = D = 64 1.7 us, 512 108 us
//   transforms          144 C + 120 D multiply-adds and additions for 36 C D: 11 % for 64, 1.4 % for 512
//   numbers             V = B^T d B: 144 C bytes; M, the sums: 144 D bytes; U = G g G^T: 144 C D bytes a
//   layer
//
// U is made once, in float64, and rounded once. It is 0.6 MB for 64 x 64, which a second-level cache holds,
// and 38 MB for 512 x 512, which none does. So there are two ways through a layer:
//
//   by tiles     C small. A thread takes as many tiles as leave V and a part of M (64 channels) in its
//                second-level cache, and does all three steps. U is read once for these tiles, 4 / tiles
//                bytes a multiply-add.
//   by points    C large. V of some hundred tiles is made by all threads, then M, then the outputs. A thread
//                multiplies one point's V (at most 0.8 MB, in cache) by a part of one point's U, so U is read
//                once for all of these tiles, and V and M go through memory: 576 C bytes for 72 C D
//                operations, 3 GB/s a core for 512. What comes next is asked for beforehand: without
//                that the products run at 0.86 of the peak, with it at 0.97 (one core, nothing in its cache).
//
// With the images of a batch side by side U is read once for all of them; an image alone, at 224, reads 300
// MB. Channels are together in memory (NHWC), filled up to 16.
//
// No sum is cut, and who computes it changes no bit: results depend on neither threads nor batch. AVX2 and
// AVX-512 agree to the bit; without fused multiply-add every product is rounded too.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "conv_kernels.hpp"
#include "large_buffer.hpp"

namespace medvlad {

// A convolution, or with `kernel` nullptr a maximum of 2 x 2. What it points to is copied.
struct Layer {
  const float* kernel;  // (3, 3, n_in, n_out)
  const float* bias;    // (n_out,)
  std::int64_t n_in, n_out;
  bool has_relu;
};

class ConvNet {
 public:
  // Layers that follow on each other, of images with n_channels.
  ConvNet(const std::vector<Layer>& layers, std::int64_t n_channels);
  ~ConvNet();

  // Of (n, h, w, n_channels): what comes out; h and w are 0 where too little is left to pool.
  Maps shape_of_output(std::int64_t n, std::int64_t h, std::int64_t w) const;

  // Reads images.data (n, h, w, n_channels) and writes `out`. Several threads may call it.
  void run(const float* images, std::int64_t n, std::int64_t h, std::int64_t w, int n_threads,
           float* out) const;

  std::int64_t n_channels() const { return n_channels_; }

 private:
  struct Step;
  struct Workspace;
  class Run;

  std::int64_t n_channels_, n_out_;
  std::vector<Step> steps_;
  // Kept from one call for the next: fresh memory costs the operating system a tenth of the time.
  mutable std::mutex mutex_;
  mutable std::unique_ptr<Workspace> spare_;
};

}  // namespace medvlad
