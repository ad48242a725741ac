// Scores from packed centres:  s_k = bias_k + sum over j of x_j c_kj,   bias_k = -|c_k|^2 / 2.
//
// `Vector` comes from one of vector_*.hpp, which must be included before this file.
//
// The centres are packed into panels of 2 vectors, dimension by dimension, so that the numbers of one
// dimension are adjacent. A register tile of rows x a panel (12 rows with AVX-512, 6 with AVX2) is
// accumulated over all dimensions. This runs at the rate of the multiply-add units.
//
// Rows with many zeros, as network features are, take other centres and skip the zeros (paired_centers.hpp).
// That leaves more candidates, so a block with very many of them makes the next ones dense. Centres are
// packed when a block first needs them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "core/aligned.hpp"
#include "core/decide.hpp"
#include "core/lazy.hpp"
#include "core/scorer.hpp"
#include "paired_centers.hpp"
#include "rows.hpp"
#include "transpose.hpp"

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr std::int64_t kTileColumns = 2 * Vector::kWidth;  // centres of a panel
constexpr std::int64_t kBlockRows = 128;
constexpr std::int64_t kZeros = 160;  // pending zeros written for each row of a tile

// Above this share of non-zero numbers `dense` is faster (measured, see benchmarks/README.md).
constexpr double kDenseShare = Vector::kWidth == 16 ? 0.6 : 0.5;
// So many candidates, as a share of the centres, cost as much as `dense` saves.
constexpr double kDenseCandidates = 0.125;

class PackedCenters {
 public:
  // Copies centers (k, d) and bias (k).
  PackedCenters(const float* centers, const float* bias, std::int64_t k_, std::int64_t d)
      : width(width_of(k_)),
        d_(d),
        values_(static_cast<std::size_t>(width * d)),
        bias_(static_cast<std::size_t>(width)) {
    std::fill_n(bias_.data(), bias_.size(), -std::numeric_limits<float>::infinity());
    std::copy(bias, bias + k_, bias_.data());
    if (width != k_) std::fill_n(values_.data(), values_.size(), 0.0F);
    for (std::int64_t column = 0; column < k_; column += kTileColumns) {
      transpose(centers + column * d, std::min(kTileColumns, k_ - column), d, d, values_.data() + column * d,
                kTileColumns);
    }
  }

  // Number of centres with padding.
  static std::int64_t width_of(std::int64_t k) {
    return (k + kTileColumns - 1) / kTileColumns * kTileColumns;
  }

  // The panel that begins at centre `column`: kTileColumns numbers for each dimension.
  const float* at(std::int64_t column) const { return values_.data() + column * d_; }

  const float* bias() const { return bias_.data(); }

  std::int64_t width;  // number of centres, padded with centres of score -infinity

 private:
  std::int64_t d_;
  AlignedBuffer<float> values_;
  AlignedBuffer<float> bias_;
};

struct MultiplyFloats {
  static Vector::Floats add(Vector::Floats a, Vector::Floats b, Vector::Floats sum) {
    return Vector::multiply_add(a, b, sum);
  }
};

// The scores of kTileRows rows (d numbers each) for the panel that begins at `column`.
template <class Multiply>
inline void dense_tile(const float* x, std::int64_t d, const PackedCenters& packed, std::int64_t column,
                       float* scores, std::int64_t stride) {
  Vector::Floats sums[Vector::kTileRows][2];
  for (int i = 0; i < Vector::kTileRows; ++i) {
    sums[i][0] = Vector::load(packed.bias() + column);
    sums[i][1] = Vector::load(packed.bias() + column + Vector::kWidth);
  }
  const float* centers = packed.at(column);
  for (std::int64_t j = 0; j < d; ++j, ++x, centers += kTileColumns) {
    const auto low = Vector::load(centers), high = Vector::load(centers + Vector::kWidth);
#if defined(__GNUC__)
#pragma GCC unroll 12
#endif
    for (int i = 0; i < Vector::kTileRows; ++i) {
      const auto value = Vector::broadcast(x[i * d]);
      sums[i][0] = Multiply::add(value, low, sums[i][0]);
      sums[i][1] = Multiply::add(value, high, sums[i][1]);
    }
  }
  for (int i = 0; i < Vector::kTileRows; ++i) {
    Vector::store(scores + i * stride, sums[i][0]);
    Vector::store(scores + i * stride + Vector::kWidth, sums[i][1]);
  }
}

class PackedScorer : public Scorer {
 public:
  static std::int64_t bytes(std::int64_t k, std::int64_t d) {
    return PackedCenters::width_of(k) * d * static_cast<std::int64_t>(sizeof(float));
  }
  static bool fits(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
    return d <= kMostDimensions && bytes(k, d) <= pack_bytes;
  }

  PackedScorer(const CenterSet& set, const ScorerOptions& options)
      : set_(set), method_(options.method), norm_(set.d), error_(set) {
    stride = PackedCenters::width_of(set.k);
    block_rows = rows_of_a_block(stride, kBlockRows);
  }

  void operator()(const float* x, std::int64_t n, const ScoredRows& to, ScorerHistory& history,
                  PendingZeros& zeros) const override {
    if (skips_zeros(x, n, history)) {
      const auto make = [&] { return std::make_unique<PairedCenters>(set_, stride); };
      paired_.get(make).score(x, n, stride, to, zeros);
      return;
    }
    // Three loops, because the compiler can use vectors for the last two.
    for (std::int64_t row = 0; row < n; ++row) to.norms[row] = squared_norm(x + row * set_.d, set_.d);
    for (std::int64_t row = 0; row < n; ++row) to.norms[row] = norm_.of(to.norms[row]);
    for (std::int64_t row = 0; row < n; ++row) to.errors[row] = error_.of(to.norms[row]);
    dense(x, n, to.scores, zeros);
  }

 protected:
  const CenterSet& set_;
  Method method_;
  NormBound norm_;
  Float32Error error_;

 private:
  bool skips_zeros(const float* x, std::int64_t n, ScorerHistory& history) const {
    if (!PairedCenters::fits(set_)) return false;
    if (method_ != Method::automatic) return method_ == Method::sparse;
    return nonzero_share(x, n, set_.d) < kDenseShare &&
           !history.needs_fine(1.0 + kDenseCandidates * static_cast<double>(set_.k));
  }

  void dense(const float* x, std::int64_t n, float* scores, PendingZeros& zeros) const {
    if (n >= Vector::kTileRows) {
      dense_tiles(x, n, scores, zeros);
      return;
    }
    // Fill the tile up with zeros.
    std::vector<float> rows(static_cast<std::size_t>(Vector::kTileRows * set_.d));
    std::vector<float> found(static_cast<std::size_t>(Vector::kTileRows * stride));
    std::copy(x, x + n * set_.d, rows.begin());
    dense_tiles(rows.data(), Vector::kTileRows, found.data(), zeros);
    std::copy(found.begin(), found.begin() + n * stride, scores);
  }

  // n must be at least kTileRows. If n is not a multiple of it, the last tile overlaps the one before it.
  void dense_tiles(const float* x, std::int64_t n, float* scores, PendingZeros& zeros) const {
    const auto make = [&] {
      return std::make_unique<PackedCenters>(set_.centers, set_.bias.data(), set_.k, set_.d);
    };
    const PackedCenters& packed = packed_.get(make);
    for (std::int64_t done = 0; done < n; done += Vector::kTileRows) {
      const std::int64_t row = std::min(done, n - Vector::kTileRows);
      for (std::int64_t column = 0; column < stride; column += kTileColumns) {
        zeros.some(Vector::kTileRows * kZeros);
        dense_tile<MultiplyFloats>(x + row * set_.d, set_.d, packed, column, scores + row * stride + column,
                                   stride);
      }
    }
  }

  Lazy<PackedCenters> packed_;
  Lazy<PairedCenters> paired_;
};

// The scorer of an instruction set, or the BLAS scorer if the packed centres exceed their memory.
template <class OwnScorer>
std::unique_ptr<const Scorer> make_packed_or_sgemm(const CenterSet& set, const ScorerOptions& options) {
  if (!PackedScorer::fits(set.k, set.d, options.pack_bytes)) return make_sgemm_scorer(set, options.sgemm);
  return std::make_unique<OwnScorer>(set, options);
}

}  // namespace

}  // namespace medvlad
