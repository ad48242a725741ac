// The parts of a convolution that each instruction set writes for itself (csrc/simd/winograd.hpp).
#pragma once

#include <cstdint>

namespace medvlad {

// Feature maps (n, h, w, c), channels together; c is a multiple of kLane, filled up with zeros.
struct Maps {
  float* data;
  std::int64_t n, h, w, c;
};

inline constexpr std::int64_t kLane = 16;  // channels, so that maps are the same for every instruction set
inline constexpr std::int64_t kTile = 4;   // a tile of outputs is kTile x kTile
inline constexpr std::int64_t kPoints = 36;

// How maps (n, h, w) of outputs are cut into tiles, which are numbered row by row, image by image.
struct Tiling {
  std::int64_t n, h, w;
  std::int64_t rows() const { return (h + kTile - 1) / kTile; }
  std::int64_t columns() const { return (w + kTile - 1) / kTile; }
  std::int64_t size() const { return n * rows() * columns(); }
};

// What belongs to the tiles [first, last), in the Winograd domain: point p's numbers of tile t begin at
// data + p * point + (t - first) * row.
struct Spectrum {
  float* data;
  std::int64_t point, row;
  std::int64_t first, last;
};

// What becomes of sums: the largest of 2 x 2 where `is_pooled`, bias, and the larger of that and `floor`.
struct Epilogue {
  const float* bias;
  float floor;
  bool is_pooled;
};

// A convolution of few channels, done as it is written: `weights` are (panels, 9 * channels, panel_width).
struct Direct {
  const float* images;  // (n, h, w, channels)
  std::int64_t channels;
  const float* weights;
};

// out(r, j) = sum over k < depth, in its order, of rows(r, k) panel(k, j), for a panel of columns. Unless
// `ahead` is nullptr, what comes next is asked for meanwhile: the panel there, and `n_rows_ahead` numbers at
// `rows_ahead`. They need not exist.
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

  // Output channels of a panel of packed weights, which are (panels, depth, panel_width), a multiple of or a
  // part of kLane; and rows of a register tile.
  virtual std::int64_t panel_width() const = 0;
  virtual std::int64_t tile_rows() const = 0;

  // B^T d B of every tile and channel.
  virtual void transform_input(const Maps& from, const Spectrum& to) const = 0;

  // One panel of a product of matrices.
  virtual void multiply(const Product& product) const = 0;

  // A^T m A and what becomes of it, for n_channels channels from `channel` on; `to` is what comes out,
  // `tiling` the maps before pooling.
  virtual void transform_output(const Spectrum& from, const Tiling& tiling, const Epilogue& epilogue,
                                const Maps& to, std::int64_t channel, std::int64_t n_channels) const = 0;

  // Rows [first, last) of all n * h rows. `band` is room for direct_band(...) numbers.
  virtual void direct(const Direct& of, const Epilogue& epilogue, const Maps& to, std::int64_t first,
                      std::int64_t last, float* band) const = 0;

  // 2 x 2 maxima, for rows [first, last) of all rows of `to`.
  virtual void pool(const Maps& from, const Maps& to, std::int64_t first, std::int64_t last) const = 0;
};

inline std::int64_t direct_band(std::int64_t w, std::int64_t channels) { return 3 * (w + 2) * channels; }

// Those of the instruction set this module was built for.
const ConvKernels& conv_kernels();

}  // namespace medvlad
