// Scores from bfloat16 products of tiles (tiles.hpp), from one product of each number or from three.
//
// The centred centres c'_k and h_k of centred.hpp are split into bfloat16 numbers. With
// y = bf16(x), z = bf16(x - y), b_k = bf16(c'_k), e_k = bf16(c'_k - b_k):
//
//   one product     x.c'_k = y.b_k                         + (x - y).b_k      + x.(c'_k - b_k)
//   three products  x.c'_k = y.b_k + (y.e_k + z.b_k)       + (x - y - z).(b_k + e_k) + z.e_k
//                                                                             + x.(c'_k - b_k - e_k)
//
// By the Cauchy-Schwarz inequality the terms on the right, which are left out, are at most
//
//   one product     |x - y| max|b_k| + |x| max|c'_k - b_k|
//   three products  |x - y - z| max|b_k + e_k| + |z| max|e_k| + |x| max|c'_k - b_k - e_k|.
//
// |x - y|, |z| and |x - y - z| are measured for each row. Products of two bfloat16 numbers are exact in
// float32, and sums are rounded: every number takes part in at most D' / 2 + 1 additions in each product,
// where D' is D rounded up to a multiple of 32. The small products are added first, so a product y.b_k takes
// part in m = D' / 2 + 2 roundings and the others in m_3 = 3 D' / 2 + 4. With gamma_m as in decide.hpp,
//
//   one product     gamma_m (|y| max|b_k| + max|h_k|)
//   three products  gamma_m |y| max|b_k| + gamma_m3 (|y| max|e_k| + |z| max|b_k| + max|h_k|)
//
// bounds the rounding. Denormals count as zeros, which adds at most FLT_MIN (2 + |x| + max|b_k|) for each
// dimension and product, and so does underflow.
//
// One product takes a third of the time and leaves 1 to 5 candidates for most rows; three leave one. So three
// are used if the candidates of a block cost more than two products (ScorerHistory). Rows with many
// zeros may take another method (paired_centers.hpp), if it is faster here.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "core/centred.hpp"
#include "core/lazy.hpp"
#include "core/size.hpp"
#include "packed.hpp"
#include "paired_centers.hpp"
#include "rows.hpp"
#include "tiles.hpp"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace medvlad {

namespace {

constexpr std::int64_t kGroupRows = 2 * kTileSide;     // rows that are multiplied at a time
constexpr std::int64_t kGroupColumns = 2 * kTileSide;  // centres that are multiplied at a time
constexpr std::int64_t kTileZeros = 320 * kGroupRows;  // pending zeros written for each 32 x 32 scores
// A float32 score of a candidate takes as long as this many numbers of the two products that it may save.
constexpr double kCandidateCost = 13000.0;
// Rows with more non-zero numbers than this share always take tiles, and so do calls of fewer rows, for which
// packing other centres costs more than it saves.
constexpr double kPairedShare = 0.3;
constexpr std::int64_t kPairedRows = 4096;

// Squared norms of a row and of its parts.
struct RowNorms {
  double row;   // |x|^2
  double lost;  // |x - y|^2, or |x - y - z|^2
  double low;   // |z|^2, or 0
};

// Write one row of d numbers into row `r` of a band in bfloat16, rounded, and what that loses into `low`,
// unless it is null. The rest of the last tile becomes zero.
inline RowNorms split_row(const float* x, std::int64_t d, std::int64_t r, std::uint16_t* high,
                          std::uint16_t* low) {
  RowNorms norms{0.0, 0.0, 0.0};
  std::int64_t j = 0;
#if defined(__AVX512BF16__)
  const auto widen = [](__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  };
  __m512 row[2], lost[2], small[2];
  for (int i = 0; i < 2; ++i) row[i] = lost[i] = small[i] = _mm512_setzero_ps();
  for (; j + kTileDepth <= d; j += kTileDepth) {
    __m512 parts[2] = {_mm512_loadu_ps(x + j), _mm512_loadu_ps(x + j + 16)};
    const __m512i y = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(parts[1], parts[0]));
    _mm512_storeu_si512(high + row_place(r, j), y);
    const __m256i halves[2] = {_mm512_castsi512_si256(y), _mm512_extracti64x4_epi64(y, 1)};
    for (int i = 0; i < 2; ++i) {
      row[i] = _mm512_fmadd_ps(parts[i], parts[i], row[i]);
      parts[i] = _mm512_sub_ps(parts[i], widen(halves[i]));
    }
    if (low != nullptr) {
      const __m512i z = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(parts[1], parts[0]));
      _mm512_storeu_si512(low + row_place(r, j), z);
      const __m256i low_halves[2] = {_mm512_castsi512_si256(z), _mm512_extracti64x4_epi64(z, 1)};
      for (int i = 0; i < 2; ++i) {
        const __m512 part = widen(low_halves[i]);
        small[i] = _mm512_fmadd_ps(part, part, small[i]);
        parts[i] = _mm512_sub_ps(parts[i], part);
      }
    }
    for (int i = 0; i < 2; ++i) lost[i] = _mm512_fmadd_ps(parts[i], parts[i], lost[i]);
  }
  norms.row = double{_mm512_reduce_add_ps(_mm512_add_ps(row[0], row[1]))};
  norms.lost = double{_mm512_reduce_add_ps(_mm512_add_ps(lost[0], lost[1]))};
  norms.low = double{_mm512_reduce_add_ps(_mm512_add_ps(small[0], small[1]))};
#endif
  for (; j < tiles_of(d) * kTileDepth; ++j) {
    const float value = j < d ? x[j] : 0.0F;
    const std::uint16_t y = to_bf16(value);
    float left = value - from_bf16(y);
    high[row_place(r, j)] = y;
    norms.row += double{value} * double{value};
    if (low != nullptr) {
      const std::uint16_t z = to_bf16(left);
      low[row_place(r, j)] = z;
      norms.low += double{from_bf16(z)} * double{from_bf16(z)};
      left -= from_bf16(z);
    }
    norms.lost += double{left} * double{left};
  }
  return norms;
}

// Centres as bands of columns, with the largest norms that the bounds need.
class TileCenters {
 public:
  static std::int64_t bytes(std::int64_t k, std::int64_t d) {
    return 4 * width_of(k) * tiles_of(d) * kTileDepth;
  }

  explicit TileCenters(const CenterSet& set)
      : width(width_of(set.k)),
        n_tiles(tiles_of(set.d)),
        high_(size(width * n_tiles * kTileDepth)),
        low_(size(width * n_tiles * kTileDepth)),
        bias_(size(width)) {
    const std::int64_t k = set.k, d = set.d;
    std::fill_n(bias_.data(), bias_.size(), -std::numeric_limits<float>::infinity());
    const Centred from(set);
    std::copy(from.bias.begin(), from.bias.end(), bias_.data());
    max_half = from.max_half;
    std::vector<float> centred(size(d));
    const NormBound norm(d);
    AlignedBuffer<std::uint16_t> high_rows(size(kTileNumbers * n_tiles)),
        low_rows(size(kTileNumbers * n_tiles));
    for (std::int64_t column = 0; column < width; column += kTileSide) {
      std::fill_n(high_rows.data(), high_rows.size(), std::uint16_t{0});
      std::fill_n(low_rows.data(), low_rows.size(), std::uint16_t{0});
      for (std::int64_t i = column; i < std::min(k, column + kTileSide); ++i) {
        for (std::int64_t j = 0; j < d; ++j) centred[size(j)] = set.centers[i * d + j] - from.mean[size(j)];
        const RowNorms squared = split_row(centred.data(), d, i - column, high_rows.data(), low_rows.data());
        const double center = norm.of(squared.row), low = norm.of(squared.low);
        const double lost = norm.of(squared.lost) + 0x1p-23 * center;  // c_k - mu was rounded to float32
        max_high = std::max(max_high, center + low + lost);
        max_low = std::max(max_low, low);
        max_both = std::max(max_both, center + lost);
        max_high_lost = std::max(max_high_lost, low + lost);
        max_both_lost = std::max(max_both_lost, lost);
      }
      for (std::int64_t t = 0; t < n_tiles; ++t) {
        transpose_tile(high_rows.data() + t * kTileNumbers,
                       high_.data() + band_of(column) + t * kTileNumbers);
        transpose_tile(low_rows.data() + t * kTileNumbers, low_.data() + band_of(column) + t * kTileNumbers);
      }
    }
  }

  // The band of columns that begins at centre `column`, a multiple of 16.
  const std::uint16_t* high(std::int64_t column) const { return high_.data() + band_of(column); }
  const std::uint16_t* low(std::int64_t column) const { return low_.data() + band_of(column); }
  const float* bias() const { return bias_.data(); }

  std::int64_t width;    // number of centres, padded with centres of score -infinity to a multiple of 32
  std::int64_t n_tiles;  // number of tiles of a band
  // Bounds on the largest norms over the centres: |b|, |e|, |b + e|, |c' - b|, |c' - b - e|, and on |h|.
  double max_high = 0.0, max_low = 0.0, max_both = 0.0, max_high_lost = 0.0, max_both_lost = 0.0,
         max_half = 0.0;

 private:
  static std::int64_t width_of(std::int64_t k) {
    return (k + kGroupColumns - 1) / kGroupColumns * kGroupColumns;
  }
  std::int64_t band_of(std::int64_t column) const { return column / kTileSide * n_tiles * kTileNumbers; }

  AlignedBuffer<std::uint16_t> high_, low_;
  AlignedBuffer<float> bias_;
};

class TileScorer final : public Scorer {
 public:
  // Whether blocks of rows have the usual size and the centres fit the memory.
  static bool fits(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
    return d <= kMostDimensions && TileCenters::bytes(k, d) <= pack_bytes &&
           rows_of_a_block(k + kGroupColumns, kGroupRows) == kGroupRows;
  }

  TileScorer(const CenterSet& set, const ScorerOptions& options)
      : set_(set),
        method_(options.method),
        norm_(set.d),
        centers_(set),
        gamma_(rounding_bound(static_cast<double>(centers_.n_tiles * kTileDepth) / 2.0 + 2.0)),
        fine_gamma_(rounding_bound(1.5 * static_cast<double>(centers_.n_tiles * kTileDepth) + 4.0)),
        may_skip_zeros_(
            PairedCenters::fits(set) &&
            (method_ == Method::sparse || (method_ == Method::automatic && options.n_rows >= kPairedRows))) {
    stride = centers_.width;
    block_rows = rows_of_a_block(stride, kBlockRows) / kGroupRows * kGroupRows;
  }

  void operator()(const float* x, std::int64_t n, const ScoredRows& to, ScorerHistory& history,
                  PendingZeros& zeros) const override {
    if (skips_zeros(x, n, history)) {
      const auto make = [&] { return std::make_unique<PairedCenters>(set_, stride); };
      const PairedCenters& paired = paired_.get(make);
      history.begin_block();  // packing is no part of the time of a block
      paired.score(x, n, stride, to, zeros);
      return;
    }
    const bool fine = is_fine(history);
    AlignedBuffer<std::uint16_t> rows(size((fine ? 2 : 1) * kGroupRows * centers_.n_tiles * kTileDepth));
    TileRegisters tiles;
    for (std::int64_t row = 0; row < n; row += kGroupRows) {
      const std::int64_t count = std::min(kGroupRows, n - row);
      split(x + row * set_.d, count, fine, rows.data(), to.norms + row, to.errors + row);
      score(tiles, rows.data(), fine, x + (row + count) * set_.d, to.scores + row * stride, zeros);
    }
  }

 private:
  // gamma_m of decide.hpp in float32, rounded up. Infinite if it says nothing.
  static double rounding_bound(double m) {
    const double mu = m * 0x1p-24;
    return mu < 0.5 ? 1.0001 * mu / (1.0 - mu) : std::numeric_limits<double>::infinity();
  }

  // Whether to multiply what is not zero, without tiles.
  bool skips_zeros(const float* x, std::int64_t n, ScorerHistory& history) const {
    if (!may_skip_zeros_ || method_ == Method::sparse) return may_skip_zeros_;
    return nonzero_share(x, n, set_.d) < kPairedShare && history.trial.takes_second();
  }

  // Whether to use three products.
  bool is_fine(ScorerHistory& history) const {
    if (method_ != Method::automatic) return method_ == Method::bf16x3;
    return history.needs_fine(1.0 + static_cast<double>(set_.k * set_.d) / kCandidateCost);
  }

  // Round `count` rows to bfloat16. Rows up to kGroupRows become zeros.
  void split(const float* x, std::int64_t count, bool fine, std::uint16_t* rows, double* norms,
             double* errors) const {
    const std::int64_t band = centers_.n_tiles * kTileNumbers;
    std::uint16_t* low = fine ? rows + 2 * band : nullptr;
    if (count < kGroupRows) std::fill_n(rows, (fine ? 4 : 2) * band, std::uint16_t{0});
    RowNorms found[kGroupRows];
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t to = r / kTileSide * band;
      found[r] = split_row(x + r * set_.d, set_.d, r % kTileSide, rows + to, fine ? low + to : nullptr);
    }
    for (std::int64_t r = 0; r < count; ++r) {
      norms[r] = norm_.of(found[r].row);
      errors[r] = error_of(norms[r], norm_.of(found[r].lost), norm_.of(found[r].low), fine);
    }
  }

  double error_of(double row, double lost, double low, bool fine) const {
    const TileCenters& c = centers_;
    const double magnitude = 2.0 * row * (c.max_high + set_.max_norm) + c.max_half;
    if (!(magnitude < 1e37 && std::isfinite(fine_gamma_))) return std::numeric_limits<double>::infinity();
    const double d = static_cast<double>(c.n_tiles * kTileDepth);
    const double underflow = 3.0 * (d + 4.0) * double{FLT_MIN} * (2.0 + row + c.max_high);
    const double high = 1.01 * row;  // at least |y|
    if (!fine) {
      return lost * c.max_high + row * c.max_high_lost + gamma_ * (high * c.max_high + c.max_half) +
             underflow;
    }
    return lost * c.max_both + low * c.max_low + row * c.max_both_lost + gamma_ * high * c.max_high +
           fine_gamma_ * (high * c.max_low + low * c.max_high + c.max_half) + underflow;
  }

  // Scores of kGroupRows rows. `ahead` are the rows to prefetch meanwhile; they need not be valid.
  void score(TileRegisters& tiles, const std::uint16_t* rows, bool fine, const float* ahead, float* scores,
             PendingZeros& zeros) const {
    const std::int64_t band = centers_.n_tiles * kTileNumbers;
    const std::int64_t n_groups = centers_.width / kGroupColumns;
    // Cache lines to prefetch during each tile. All at once would delay the loads of the tiles.
    const std::int64_t n = centers_.n_tiles;
    const std::int64_t lines = (kGroupRows * set_.d / 16 + n_groups * n - 1) / (n_groups * n);
    const auto nothing = [](std::int64_t) {};
    const std::int64_t step = stride * static_cast<std::int64_t>(sizeof(float));
    for (std::int64_t group = 0; group < n_groups; ++group) {
      const std::int64_t column = group * kGroupColumns;
      zeros.some(kTileZeros);
      tiles.load<0>(centers_.bias() + column, 0);
      tiles.load<1>(centers_.bias() + column + kTileSide, 0);
      tiles.load<2>(centers_.bias() + column, 0);
      tiles.load<3>(centers_.bias() + column + kTileSide, 0);
      if (fine) {
        multiply_bands<2, 2>(tiles, rows, band, centers_.low(column), band, n, nothing);
        multiply_bands<2, 2>(tiles, rows + 2 * band, band, centers_.high(column), band, n, nothing);
      }
      multiply_bands<2, 2>(tiles, rows, band, centers_.high(column), band, n, [&](std::int64_t) {
        for (std::int64_t line = 0; line < lines; ++line, ahead += 16) Vector::prefetch(ahead);
      });
      tiles.store<0>(scores + column, step);
      tiles.store<1>(scores + column + kTileSide, step);
      tiles.store<2>(scores + kTileSide * stride + column, step);
      tiles.store<3>(scores + kTileSide * stride + column + kTileSide, step);
    }
  }

  const CenterSet& set_;
  Method method_;
  NormBound norm_;
  TileCenters centers_;
  double gamma_, fine_gamma_;
  bool may_skip_zeros_;
  Lazy<PairedCenters> paired_;
};

inline bool tiles_need_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  // Also if tiles fit: very large centres take another scorer.
  return !PackedScorer::fits(k, d, pack_bytes);
}

inline std::unique_ptr<const Scorer> make_tile_scorer(const CenterSet& set, const ScorerOptions& options) {
  // The products of larger centres might overflow float32. Their error bound is infinite anyway.
  if (set.max_norm < 1e18 && TileScorer::fits(set.k, set.d, options.pack_bytes)) {
    return std::make_unique<TileScorer>(set, options);
  }
  return make_packed_or_sgemm<PackedScorer>(set, options);
}

}  // namespace

}  // namespace medvlad
