// Products of rounded rows with the candidates of k-means++ by bfloat16 tiles (tiles.hpp).
//
// With b_t = bf16(c_t), the product y_r.b_t has no error but the rounding of sums: every number takes part in
// at most D' / 2 + 1 of them, where D' is D rounded up to a multiple of 32. Denormals count as zeros.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>

#include "core/aligned.hpp"
#include "core/candidate_scorer.hpp"
#include "core/size.hpp"
#include "tiles.hpp"

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

class TileCandidateScorer final : public CandidateScorer {
 public:
  explicit TileCandidateScorer(std::int64_t d) : d_(d), n_tiles_(tiles_of(d)) {
    const double roundings = static_cast<double>(n_tiles_ * kTileDepth / 2) + 2.0,
                 share = roundings * 0x1p-24;
    relative = share < 0.5 ? share / (1.0 - share) : std::numeric_limits<double>::infinity();
    absolute = 4.0 * static_cast<double>(n_tiles_ * kTileDepth) * double{FLT_MIN};
  }

  // Candidates as bands of columns.
  void prepare(const float* candidates, std::int64_t n) override {
    stride = (n + kTileSide - 1) / kTileSide * kTileSide;
    columns_.reserve(size(stride * n_tiles_ * kTileDepth));
    std::fill_n(columns_.data(), columns_.size(), std::uint16_t{0});
    lost = 0.0;
    for (std::int64_t t = 0; t < n; ++t) {
      std::uint16_t* band = columns_.data() + t / kTileSide * n_tiles_ * kTileNumbers;
      double squared = 0.0;
      for (std::int64_t j = 0; j < d_; ++j) {
        const float value = candidates[t * d_ + j];
        const std::uint16_t rounded = to_bf16(value);
        band[column_place(t % kTileSide, j)] = rounded;
        const double part = double{value} - double{from_bf16(rounded)};
        squared += part * part;
      }
      lost = std::max(lost, 1.0001 * std::sqrt(squared));
    }
  }

  void operator()(const std::uint32_t* rows, std::int64_t n, float* products) const override {
    TileRegisters tiles;
    for (std::int64_t column = 0; column < stride; column += kTileSide) {
      const std::uint16_t* columns = columns_.data() + column * n_tiles_ * kTileDepth;
      std::int64_t row = 0;
      for (; row + 4 * kTileSide <= n; row += 4 * kTileSide) {
        multiply<4>(tiles, rows + row * words(), columns, products + row * stride + column);
      }
      for (; row < n; row += kTileSide) {
        multiply<1>(tiles, rows + row * words(), columns, products + row * stride + column);
      }
    }
  }

 private:
  std::int64_t words() const { return n_tiles_ * kTileDepth / 2; }

  // kBands bands of rows times one band of columns.
  template <int kBands>
  void multiply(TileRegisters& tiles, const std::uint32_t* rows, const std::uint16_t* columns,
                float* products) const {
    const std::int64_t step = 4 * words(), band = kTileSide * words();
    tiles.clear<0>(), tiles.clear<1>(), tiles.clear<2>(), tiles.clear<3>();
    for (std::int64_t t = 0; t < n_tiles_; ++t, rows += kTileDepth / 2, columns += kTileNumbers) {
      tiles.load<6>(columns);
      tiles.load<4>(rows, step);
      tiles.multiply<0, 4, 6>();
      if constexpr (kBands == 4) {
        tiles.load<5>(rows + band, step);
        tiles.multiply<1, 5, 6>();
        tiles.load<4>(rows + 2 * band, step);
        tiles.multiply<2, 4, 6>();
        tiles.load<5>(rows + 3 * band, step);
        tiles.multiply<3, 5, 6>();
      }
    }
    const std::int64_t to = 4 * stride, next = kTileSide * stride;
    tiles.store<0>(products, to);
    if constexpr (kBands == 4) {
      tiles.store<1>(products + next, to);
      tiles.store<2>(products + 2 * next, to);
      tiles.store<3>(products + 3 * next, to);
    }
  }

  std::int64_t d_, n_tiles_;
  AlignedBuffer<std::uint16_t> columns_;
};

}  // namespace

}  // namespace medvlad
