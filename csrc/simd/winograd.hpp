// Winograd convolution kernels: the interface of core/conv_kernels.hpp for one instruction set.
//
// The mathematics is in core/convnet.hpp. `Vector` comes from one of vector_*.hpp, which must be included
// before this file.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/conv_kernels.hpp"
#include "core/winograd_points.hpp"

#if defined(__GNUC__)
#define MEDVLAD_UNROLL _Pragma("GCC unroll 16")
#else
#define MEDVLAD_UNROLL
#endif

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

class WinogradKernels final : public ConvKernels {
  using Floats = Vector::Floats;
  static constexpr int kWidth = Vector::kWidth;
  static constexpr int kRows = Vector::kTileRows;
  static constexpr std::int64_t kPanelWidth = 2 * kWidth;
  static constexpr std::int64_t kGroup = 4;

 public:
  std::int64_t panel_width() const override { return kPanelWidth; }
  std::int64_t tile_rows() const override { return kRows; }

  void transform_input(const Maps& from, const Spectrum& to) const override {
    const Tiling tiling{from.n, from.h, from.w};
    const std::int64_t c = from.c, line = from.w * c;
    Place place(tiling, to.first);
    float* out = to.data;
    for (std::int64_t t = to.first; t < to.last; ++t, place.next(), out += to.row) {
      const std::int64_t y = place.row * kTile - 1, x = place.column * kTile - 1;
      const float* image = from.data + place.image * from.h * line;
      if (y >= 0 && x >= 0 && y + 6 <= from.h && x + 6 <= from.w) {
        const float* begin = image + y * line + x * c;
        for (std::int64_t i = 0; i < c; i += kWidth) {
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
      for (std::int64_t i = 0; i < c; i += kWidth) {
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
    const std::int64_t n_strips = (of.n_rows + kRows - 1) / kRows;
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
    Place place(tiling, from.first);
    const float* in = from.data;
    for (std::int64_t t = from.first; t < from.last; ++t, place.next(), in += from.row) {
      const std::int64_t y = place.row * side, x = place.column * side;
      const std::int64_t height = std::min(side, to.h - y), width = std::min(side, to.w - x);
      if (height <= 0 || width <= 0) continue;
      float* begin = to.data + (place.image * to.h + y) * line + x * to.c + channel;
      for (std::int64_t i = 0; i < n_channels; i += kWidth) {
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
      const std::int64_t n_strips = (to.w + kRows - 1) / kRows;
      for (std::int64_t strip = 0; strip < n_strips; ++strip) {
        const std::int64_t x = strip * to.w / n_strips, end = (strip + 1) * to.w / n_strips;
        for (std::int64_t channel = 0; channel < to.c; channel += kPanelWidth) {
          kDirectStrips[static_cast<std::size_t>(end - x)](
              band + x * of.channels, line, of.channels, of.weights + channel * 3 * depth,
              epilogue.bias + channel, epilogue.floor, out + x * to.c + channel, to.c,
              to.c - channel > kWidth);
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
        for (std::int64_t i = 0; i < to.c; i += kWidth) {
          const auto upper = Vector::larger_or_nan(Vector::load(in + i), Vector::load(in + from.c + i));
          const auto lower =
              Vector::larger_or_nan(Vector::load(in + line + i), Vector::load(in + line + from.c + i));
          Vector::store(out + i, Vector::larger_or_nan(upper, lower));
        }
      }
    }
  }

 private:
  // Iterates over tiles: image, row and column of the current one.
  struct Place {
    Place(const Tiling& tiling, std::int64_t t)
        : rows(tiling.rows()), columns(tiling.columns()), image(t / (rows * columns)) {
      row = t / columns % rows;
      column = t % columns;
    }
    void next() {
      if (++column < columns) return;
      column = 0;
      if (++row < rows) return;
      row = 0;
      ++image;
    }
    std::int64_t rows, columns, image, row, column;
  };

  static Floats constant(double value) { return Vector::broadcast(static_cast<float>(value)); }

  // v = B^T d for six numbers.
  static void transform(const Floats (&d)[6], Floats (&v)[6]) {
    constexpr double a = kPointA, b = kPointB;
    const auto sum = constant(a * a + b * b), product = constant(a * a * b * b);
    const auto aa = constant(a * a), bb = constant(b * b);
    v[0] = Vector::multiply_subtract(sum, d[2], Vector::multiply_add(product, d[0], d[4]));
    v[5] = Vector::multiply_subtract(sum, d[3], Vector::multiply_add(product, d[1], d[5]));
    const auto even_a = Vector::multiply_subtract(bb, d[2], d[4]);
    const auto odd_a = Vector::multiply_subtract(bb, d[1], d[3]);
    const auto even_b = Vector::multiply_subtract(aa, d[2], d[4]);
    const auto odd_b = Vector::multiply_subtract(aa, d[1], d[3]);
    v[1] = Vector::multiply_add(constant(a), odd_a, even_a);
    v[2] = Vector::multiply_subtract(constant(a), odd_a, even_a);
    v[3] = Vector::multiply_add(constant(b), odd_b, even_b);
    v[4] = Vector::multiply_subtract(constant(b), odd_b, even_b);
  }

  template <class Load>
  static void transform_patch(const Load& load, float* out, std::int64_t point) {
    Floats half[6][6];
    MEDVLAD_UNROLL
    for (int column = 0; column < 6; ++column) {
      const Floats d[6] = {load(0, column), load(1, column), load(2, column),
                           load(3, column), load(4, column), load(5, column)};
      Floats v[6];
      transform(d, v);
      MEDVLAD_UNROLL
      for (int row = 0; row < 6; ++row) half[row][column] = v[row];
    }
    MEDVLAD_UNROLL
    for (int row = 0; row < 6; ++row) {
      Floats v[6];
      transform(half[row], v);
      MEDVLAD_UNROLL
      for (int column = 0; column < 6; ++column) Vector::store(out + (6 * row + column) * point, v[column]);
    }
  }

  // y = A^T m for six numbers.
  static void untransform(const Floats (&m)[6], Floats (&y)[4]) {
    constexpr double a = kPointA, b = kPointB;
    const auto even_a = Vector::add(m[1], m[2]), odd_a = Vector::subtract(m[1], m[2]);
    const auto even_b = Vector::add(m[3], m[4]), odd_b = Vector::subtract(m[3], m[4]);
    y[0] = Vector::add(m[0], Vector::add(even_a, even_b));
    y[1] = Vector::multiply_add(constant(a), odd_a, Vector::multiply(constant(b), odd_b));
    y[2] = Vector::multiply_add(constant(a * a), even_a, Vector::multiply(constant(b * b), even_b));
    y[3] = Vector::multiply_add(constant(a * a * a), odd_a,
                                Vector::multiply_add(constant(b * b * b), odd_b, m[5]));
  }

  static void untransform(const float* in, std::int64_t point, Floats (&sums)[4][4]) {
    Floats half[4][6];
    MEDVLAD_UNROLL
    for (int column = 0; column < 6; ++column) {
      const float* m = in + column * point;
      const Floats all[6] = {Vector::load(m),
                             Vector::load(m + 6 * point),
                             Vector::load(m + 12 * point),
                             Vector::load(m + 18 * point),
                             Vector::load(m + 24 * point),
                             Vector::load(m + 30 * point)};
      Floats y[4];
      untransform(all, y);
      MEDVLAD_UNROLL
      for (int row = 0; row < 4; ++row) half[row][column] = y[row];
    }
    MEDVLAD_UNROLL
    for (int row = 0; row < 4; ++row) untransform(half[row], sums[row]);
  }

  static Floats largest(const Floats (&sums)[4][4], int row, int column) {
    return Vector::larger_or_nan(Vector::larger_or_nan(sums[row][column], sums[row][column + 1]),
                                 Vector::larger_or_nan(sums[row + 1][column], sums[row + 1][column + 1]));
  }

  // Addresses to prefetch, and how far they advance with each group of k.
  struct Ahead {
    const float* panel;
    std::int64_t panel_step;
    const float* rows;
    std::int64_t rows_step;
  };

  // sums(i, :) += rows(i, 0) panel(0, :).
  template <std::size_t kCount>
  static void add_product(Floats (&sums)[kCount][2], const float* rows, std::int64_t row,
                          const float* panel) {
    const auto low = Vector::load(panel), high = Vector::load(panel + kWidth);
    MEDVLAD_UNROLL
    for (std::size_t i = 0; i < kCount; ++i) {
      const auto value = Vector::broadcast(rows[static_cast<std::int64_t>(i) * row]);
      sums[i][0] = Vector::multiply_add(value, low, sums[i][0]);
      sums[i][1] = Vector::multiply_add(value, high, sums[i][1]);
    }
  }

  // sums(i, :) += sum over k of rows(i, k) panel(k, :).
  template <std::size_t kCount, bool kAsks>
  static void accumulate(Floats (&sums)[kCount][2], const float* rows, std::int64_t row, std::int64_t depth,
                         const float* panel, Ahead ahead) {
    std::int64_t k = 0;
    for (; k + kGroup <= depth; k += kGroup, rows += kGroup, panel += kGroup * kPanelWidth) {
      if (kAsks) {
        Vector::prefetch(ahead.panel);
        Vector::prefetch(ahead.panel + kLane);
        Vector::prefetch(ahead.rows);
        ahead.panel += ahead.panel_step;
        ahead.rows += ahead.rows_step;
      }
      MEDVLAD_UNROLL
      for (std::int64_t i = 0; i < kGroup; ++i) {
        add_product<kCount>(sums, rows + i, row, panel + i * kPanelWidth);
      }
    }
    for (; k < depth; ++k, ++rows, panel += kPanelWidth) add_product<kCount>(sums, rows, row, panel);
  }

  template <std::size_t kCount, bool kAsks>
  static void strip(const float* rows, std::int64_t row, std::int64_t depth, const float* panel,
                    const Ahead& ahead, float* out, std::int64_t out_row) {
    Floats sums[kCount][2];
    MEDVLAD_UNROLL
    for (std::size_t i = 0; i < kCount; ++i) {
      sums[i][0] = sums[i][1] = Vector::zero();
      if (!kAsks) continue;
      Vector::prefetch_to_write(out + static_cast<std::int64_t>(i) * out_row);
      Vector::prefetch_to_write(out + static_cast<std::int64_t>(i) * out_row + kWidth);
    }
    accumulate<kCount, kAsks>(sums, rows, row, depth, panel, ahead);
    MEDVLAD_UNROLL
    for (std::size_t i = 0; i < kCount; ++i, out += out_row) {
      Vector::store(out, sums[i][0]);
      Vector::store(out + kWidth, sums[i][1]);
    }
  }

  template <std::size_t kCount>
  static void direct_strip(const float* band, std::int64_t line, std::int64_t channels, const float* panel,
                           const float* bias, float least, float* out, std::int64_t out_row, bool is_whole) {
    const auto floor = Vector::broadcast(least);
    Floats sums[kCount][2];
    MEDVLAD_UNROLL
    for (std::size_t i = 0; i < kCount; ++i) {
      sums[i][0] = Vector::load(bias);
      sums[i][1] = Vector::load(bias + kWidth);
    }
    for (int i = 0; i < 3; ++i) {
      accumulate<kCount, false>(sums, band + i * line, channels, 3 * channels,
                                panel + i * 3 * channels * kPanelWidth, {});
    }
    MEDVLAD_UNROLL
    for (std::size_t i = 0; i < kCount; ++i, out += out_row) {
      Vector::store(out, Vector::larger(floor, sums[i][0]));
      if (is_whole) Vector::store(out + kWidth, Vector::larger(floor, sums[i][1]));
    }
  }

  using Strip = void (*)(const float*, std::int64_t, std::int64_t, const float*, const Ahead&, float*,
                         std::int64_t);
  using DirectStrip = void (*)(const float*, std::int64_t, std::int64_t, const float*, const float*, float,
                               float*, std::int64_t, bool);
  // Functions by the number of rows.
  template <class Function>
  using Table = std::array<Function, std::size_t{kRows} + 1>;

  template <bool kAsks, std::size_t... kCounts>
  static constexpr Table<Strip> all_strips(std::index_sequence<kCounts...>) {
    return {nullptr, &strip<kCounts + 1, kAsks>...};
  }
  template <std::size_t... kCounts>
  static constexpr Table<DirectStrip> all_direct_strips(std::index_sequence<kCounts...>) {
    return {nullptr, &direct_strip<kCounts + 1>...};
  }

  static const Table<Strip> kStrips, kAskingStrips;
  static const Table<DirectStrip> kDirectStrips;
};

constexpr WinogradKernels::Table<WinogradKernels::Strip> WinogradKernels::kStrips =
    WinogradKernels::all_strips<false>(std::make_index_sequence<WinogradKernels::kRows>());
constexpr WinogradKernels::Table<WinogradKernels::Strip> WinogradKernels::kAskingStrips =
    WinogradKernels::all_strips<true>(std::make_index_sequence<WinogradKernels::kRows>());
constexpr WinogradKernels::Table<WinogradKernels::DirectStrip> WinogradKernels::kDirectStrips =
    WinogradKernels::all_direct_strips(std::make_index_sequence<WinogradKernels::kRows>());

const WinogradKernels kWinogradKernels;

}  // namespace

}  // namespace medvlad
