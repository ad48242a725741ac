// Interface of the parts of a convolution that are compiled for each instruction set
// (csrc/simd/winograd.hpp).
//
// The symbols d, g, V, M, A and B are those of the mathematics in convnet.hpp.
#pragma once

#include <cstdint>

namespace medvlad {

// Feature maps (n, h, w, c), channels last. c is a multiple of kLane; additional channels are zero.
struct Maps {
  float* data;
  std::int64_t n, h, w, c;
};

inline constexpr std::int64_t kLane = 16;    // channels; one value for all instruction sets
inline constexpr std::int64_t kTile = 4;     // a tile of outputs is kTile x kTile
inline constexpr std::int64_t kPoints = 36;  // numbers of a transformed 6 x 6 patch

// The tiles of output maps (n, h, w). Tiles are numbered row by row, then image by image.
struct Tiling {
  std::int64_t n, h, w;
  std::int64_t rows() const { return (h + kTile - 1) / kTile; }
  std::int64_t columns() const { return (w + kTile - 1) / kTile; }
  std::int64_t size() const { return n * rows() * columns(); }
};

// Transformed numbers (V or M) of the tiles [first, last). The numbers of point p and tile t begin at
// data + p * point + (t - first) * row.
struct Spectrum {
  float* data;
  std::int64_t point, row;
  std::int64_t first, last;
};

// What follows a convolution: 2 x 2 maximum pooling if `is_pooled`, then the bias is added, then
// max(value, floor). The floor is 0 for a ReLU and -infinity without one.
struct Epilogue {
  const float* bias;
  float floor;
  bool is_pooled;
};

// A convolution computed directly from its definition, for few channels. `weights` are
// (panels, 9 * channels, panel_width).
struct Direct {
  const float* images;  // (n, h, w, channels)
  std::int64_t channels;
  const float* weights;
};

// A product of matrices for one panel of columns, summed in the order of k:
//
//   out(r, j) = sum over k < depth of rows(r, k) panel(k, j).
//
// Unless `ahead` is nullptr, the inputs of the next product are prefetched meanwhile: the panel at `ahead`
// and `n_rows_ahead` numbers at `rows_ahead`. The addresses need not be valid.
struct Product {
  const float* rows;
  std::int64_t n_rows, row, depth;
  const float* panel;
  float* out;
  std::int64_t out_row;
  const float* ahead;
  const float* rows_ahead;
  std::int64_t n_rows_ahead;
};

class ConvKernels {
 public:
  virtual ~ConvKernels() = default;

  // Number of output channels of a panel of packed weights (panels, depth, panel_width). It divides kLane, or
  // kLane divides it.
  virtual std::int64_t panel_width() const = 0;

  // Number of rows that are multiplied at a time in registers.
  virtual std::int64_t tile_rows() const = 0;

  // V = B^T d B for every tile and channel.
  virtual void transform_input(const Maps& from, const Spectrum& to) const = 0;

  virtual void multiply(const Product& product) const = 0;

  // Y = A^T m A and what follows it, for n_channels channels from `channel` on. `to` are the outputs,
  // `tiling` describes the maps before pooling.
  virtual void transform_output(const Spectrum& from, const Tiling& tiling, const Epilogue& epilogue,
                                const Maps& to, std::int64_t channel, std::int64_t n_channels) const = 0;

  // The direct convolution of the rows [first, last) of all n * h rows. `band` has room for direct_band(...)
  // numbers.
  virtual void direct(const Direct& of, const Epilogue& epilogue, const Maps& to, std::int64_t first,
                      std::int64_t last, float* band) const = 0;

  // 2 x 2 maximum pooling of the rows [first, last) of all rows of `to`.
  virtual void pool(const Maps& from, const Maps& to, std::int64_t first, std::int64_t last) const = 0;
};

// Number of floats in three padded rows of an image of width w.
inline std::int64_t direct_band(std::int64_t w, std::int64_t channels) { return 3 * (w + 2) * channels; }

// The kernels of the instruction set that this module is compiled for.
const ConvKernels& conv_kernels();

}  // namespace medvlad
