// Matrix products of strips: a few rows of inputs times a panel of two vectors of weights.
//
// `Vector` comes from one of vector_*.hpp, which must be included before this file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/conv_kernels.hpp"
#include "simd/winograd_transforms.hpp"

namespace medvlad {

namespace {

constexpr int kStripRows = Vector::kTileRows;
constexpr std::int64_t kPanelWidth = 2 * Vector::kWidth;
constexpr std::int64_t kGroup = 4;  // steps of k between prefetches

// Addresses to prefetch, and how far they advance with each group of k.
struct Ahead {
  const float* panel;
  std::int64_t panel_step;
  const float* rows;
  std::int64_t rows_step;
};

// sums(i, :) += rows(i, 0) panel(0, :).
template <std::size_t kCount>
inline void add_product(Floats (&sums)[kCount][2], const float* rows, std::int64_t row, const float* panel) {
  const auto low = Vector::load(panel), high = Vector::load(panel + Vector::kWidth);
  MEDVLAD_UNROLL
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto value = Vector::broadcast(rows[static_cast<std::int64_t>(i) * row]);
    sums[i][0] = Vector::multiply_add(value, low, sums[i][0]);
    sums[i][1] = Vector::multiply_add(value, high, sums[i][1]);
  }
}

// sums(i, :) += sum over k of rows(i, k) panel(k, :).
template <std::size_t kCount, bool kAsks>
inline void accumulate(Floats (&sums)[kCount][2], const float* rows, std::int64_t row, std::int64_t depth,
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
inline void strip(const float* rows, std::int64_t row, std::int64_t depth, const float* panel,
                  const Ahead& ahead, float* out, std::int64_t out_row) {
  Floats sums[kCount][2];
  MEDVLAD_UNROLL
  for (std::size_t i = 0; i < kCount; ++i) {
    sums[i][0] = sums[i][1] = Vector::zero();
    if (!kAsks) continue;
    Vector::prefetch_to_write(out + static_cast<std::int64_t>(i) * out_row);
    Vector::prefetch_to_write(out + static_cast<std::int64_t>(i) * out_row + Vector::kWidth);
  }
  accumulate<kCount, kAsks>(sums, rows, row, depth, panel, ahead);
  MEDVLAD_UNROLL
  for (std::size_t i = 0; i < kCount; ++i, out += out_row) {
    Vector::store(out, sums[i][0]);
    Vector::store(out + Vector::kWidth, sums[i][1]);
  }
}

template <std::size_t kCount>
inline void direct_strip(const float* band, std::int64_t line, std::int64_t channels, const float* panel,
                         const float* bias, float least, float* out, std::int64_t out_row, bool is_whole) {
  const auto floor = Vector::broadcast(least);
  Floats sums[kCount][2];
  MEDVLAD_UNROLL
  for (std::size_t i = 0; i < kCount; ++i) {
    sums[i][0] = Vector::load(bias);
    sums[i][1] = Vector::load(bias + Vector::kWidth);
  }
  for (int i = 0; i < 3; ++i) {
    accumulate<kCount, false>(sums, band + i * line, channels, 3 * channels,
                              panel + i * 3 * channels * kPanelWidth, {});
  }
  MEDVLAD_UNROLL
  for (std::size_t i = 0; i < kCount; ++i, out += out_row) {
    Vector::store(out, Vector::larger(floor, sums[i][0]));
    if (is_whole) Vector::store(out + Vector::kWidth, Vector::larger(floor, sums[i][1]));
  }
}

using Strip = void (*)(const float*, std::int64_t, std::int64_t, const float*, const Ahead&, float*,
                       std::int64_t);
using DirectStrip = void (*)(const float*, std::int64_t, std::int64_t, const float*, const float*, float,
                             float*, std::int64_t, bool);
// Functions by the number of rows.
template <class Function>
using Table = std::array<Function, std::size_t{kStripRows} + 1>;

template <bool kAsks, std::size_t... kCounts>
constexpr Table<Strip> all_strips(std::index_sequence<kCounts...>) {
  return {nullptr, &strip<kCounts + 1, kAsks>...};
}
template <std::size_t... kCounts>
constexpr Table<DirectStrip> all_direct_strips(std::index_sequence<kCounts...>) {
  return {nullptr, &direct_strip<kCounts + 1>...};
}

constexpr Table<Strip> kStrips = all_strips<false>(std::make_index_sequence<kStripRows>());
constexpr Table<Strip> kAskingStrips = all_strips<true>(std::make_index_sequence<kStripRows>());
constexpr Table<DirectStrip> kDirectStrips = all_direct_strips(std::make_index_sequence<kStripRows>());

}  // namespace

}  // namespace medvlad
