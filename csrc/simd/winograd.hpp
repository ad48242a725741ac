// Winograd convolution kernels: the interface of core/conv_kernels.hpp for one instruction set.
//
// The mathematics is in core/convnet.hpp. `Vector` comes from one of vector_*.hpp, which must be included
// before this file.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/conv_kernels.hpp"
#include "simd/winograd_strips.hpp"
#include "simd/winograd_transforms.hpp"

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

class WinogradKernels final : public ConvKernels {
 public:
  std::int64_t panel_width() const override { return kPanelWidth; }
  std::int64_t tile_rows() const override { return kStripRows; }

  void transform_input(const Maps& from, const Spectrum& to) const override {
    const Tiling tiling{from.n, from.h, from.w};
    const std::int64_t c = from.c, line = from.w * c;
    TilePlace place(tiling, to.first);
    float* out = to.data;
    for (std::int64_t t = to.first; t < to.last; ++t, place.next(), out += to.row) {
      const std::int64_t y = place.row * kTile - 1, x = place.column * kTile - 1;
      const float* image = from.data + place.image * from.h * line;
      if (y >= 0 && x >= 0 && y + 6 <= from.h && x + 6 <= from.w) {
        const float* begin = image + y * line + x * c;
        for (std::int64_t i = 0; i < c; i += Vector::kWidth) {
          transform_patch(
              [=](int row, int column) { return Vector::load(begin + row * line + column * c + i); }, out + i,
              to.point);
        }
        continue;
      }
      // The input is padded with zeros.
      bool inside_rows[6], inside_columns[6];
      for (int i = 0; i < 6; ++i) {
        inside_rows[i] = y + i >= 0 && y + i < from.h;
        inside_columns[i] = x + i >= 0 && x + i < from.w;
      }
      const std::int64_t begin = y * line + x * c;
      for (std::int64_t i = 0; i < c; i += Vector::kWidth) {
        transform_patch(
            [&](int row, int column) {
              return inside_rows[row] && inside_columns[column]
                         ? Vector::load(image + (begin + row * line + column * c + i))
                         : Vector::zero();
            },
            out + i, to.point);
      }
    }
  }

  void multiply(const Product& of) const override {
    const std::int64_t n_strips = (of.n_rows + kStripRows - 1) / kStripRows;
    // Strips of nearly equal height. Each prefetches its share of the next inputs, one step for each group of
    // k.
    const std::int64_t groups = of.depth / kGroup, steps = std::max<std::int64_t>(1, n_strips * groups);
    const std::int64_t step = (of.depth * kPanelWidth + steps - 1) / steps;
    const std::int64_t rows_step = (of.n_rows_ahead + steps - 1) / steps;
    const auto& strips = of.ahead == nullptr ? kStrips : kAskingStrips;
    for (std::int64_t strip = 0; strip < n_strips; ++strip) {
      const std::int64_t first = strip * of.n_rows / n_strips, last = (strip + 1) * of.n_rows / n_strips;
      Ahead ahead{of.ahead, step, of.rows_ahead, rows_step};
      if (of.ahead != nullptr) ahead.panel += strip * groups * step, ahead.rows += strip * groups * rows_step;
      strips[static_cast<std::size_t>(last - first)](of.rows + first * of.row, of.row, of.depth, of.panel,
                                                     ahead, of.out + first * of.out_row, of.out_row);
    }
  }

  void transform_output(const Spectrum& from, const Tiling& tiling, const Epilogue& epilogue, const Maps& to,
                        std::int64_t channel, std::int64_t n_channels) const override {
    const auto floor = Vector::broadcast(epilogue.floor);
    const int step = epilogue.is_pooled ? 2 : 1;
    const std::int64_t side = kTile / step, line = to.w * to.c;
    TilePlace place(tiling, from.first);
    const float* in = from.data;
    for (std::int64_t t = from.first; t < from.last; ++t, place.next(), in += from.row) {
      const std::int64_t y = place.row * side, x = place.column * side;
      const std::int64_t height = std::min(side, to.h - y), width = std::min(side, to.w - x);
      if (height <= 0 || width <= 0) continue;
      float* begin = to.data + (place.image * to.h + y) * line + x * to.c + channel;
      for (std::int64_t i = 0; i < n_channels; i += Vector::kWidth) {
        const auto bias = Vector::load(epilogue.bias + channel + i);
        Floats sums[4][4];
        untransform(in + i, from.point, sums);
        const auto put = [&](int row, int column, Floats sum) {
          Vector::store(begin + row * line + column * to.c + i,
                        Vector::larger(floor, Vector::add(sum, bias)));
        };
        if (epilogue.is_pooled) {
          // The maximum may be taken before the bias is added, because rounding keeps the order.
          MEDVLAD_UNROLL
          for (int row = 0; row < 2; ++row) {
            MEDVLAD_UNROLL
            for (int column = 0; column < 2; ++column) {
              if (row < height && column < width) put(row, column, largest(sums, 2 * row, 2 * column));
            }
          }
        } else if (height == kTile && width == kTile) {
          MEDVLAD_UNROLL
          for (int row = 0; row < 4; ++row) {
            MEDVLAD_UNROLL
            for (int column = 0; column < 4; ++column) put(row, column, sums[row][column]);
          }
        } else {
          MEDVLAD_UNROLL
          for (int row = 0; row < 4; ++row) {
            MEDVLAD_UNROLL
            for (int column = 0; column < 4; ++column) {
              if (row < height && column < width) put(row, column, sums[row][column]);
            }
          }
        }
      }
    }
  }

  void direct(const Direct& of, const Epilogue& epilogue, const Maps& to, std::int64_t first,
              std::int64_t last, float* band) const override {
    const std::int64_t line = (to.w + 2) * of.channels, depth = 3 * of.channels;
    for (std::int64_t y = first; y < last; ++y) {
      const std::int64_t row = y % to.h;
      for (std::int64_t i = 0; i < 3; ++i) {
        float* to_line = band + i * line;
        std::fill_n(to_line, line, 0.0F);
        const std::int64_t source = row + i - 1;
        if (source < 0 || source >= to.h) continue;
        std::copy_n(of.images + (y + i - 1) * to.w * of.channels, to.w * of.channels, to_line + of.channels);
      }
      float* out = to.data + y * to.w * to.c;
      const std::int64_t n_strips = (to.w + kStripRows - 1) / kStripRows;
      for (std::int64_t strip = 0; strip < n_strips; ++strip) {
        const std::int64_t x = strip * to.w / n_strips, end = (strip + 1) * to.w / n_strips;
        for (std::int64_t channel = 0; channel < to.c; channel += kPanelWidth) {
          kDirectStrips[static_cast<std::size_t>(end - x)](
              band + x * of.channels, line, of.channels, of.weights + channel * 3 * depth,
              epilogue.bias + channel, epilogue.floor, out + x * to.c + channel, to.c,
              to.c - channel > Vector::kWidth);
        }
      }
    }
  }

  void pool(const Maps& from, const Maps& to, std::int64_t first, std::int64_t last) const override {
    const std::int64_t line = from.w * from.c;
    for (std::int64_t y = first; y < last; ++y) {
      const float* in = from.data + (y / to.h * from.h + y % to.h * 2) * line;
      float* out = to.data + y * to.w * to.c;
      for (std::int64_t x = 0; x < to.w; ++x, in += 2 * from.c, out += to.c) {
        for (std::int64_t i = 0; i < to.c; i += Vector::kWidth) {
          const auto upper = Vector::larger_or_nan(Vector::load(in + i), Vector::load(in + from.c + i));
          const auto lower =
              Vector::larger_or_nan(Vector::load(in + line + i), Vector::load(in + line + from.c + i));
          Vector::store(out + i, Vector::larger_or_nan(upper, lower));
        }
      }
    }
  }
};

const WinogradKernels kWinogradKernels;

}  // namespace

}  // namespace medvlad
