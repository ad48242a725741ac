// Scores from packed centres:  s_k = bias_k + sum over j of x_j c_kj,   bias_k = -|c_k|^2 / 2.
//
// `Vector` comes from one of vector_*.hpp, which must be included before this file.
//
// The centres are packed once in each call into panels of 8 vectors (the last panel may have 4). A panel is
// stored in blocks of 64 dimensions, dimension by dimension, so that its numbers of one dimension are
// adjacent. A block has 16 or 32 KiB and stays in the first-level cache while rows are multiplied. There are
// two methods:
//
//   dense    A register tile of rows x centres (12 x 32 with AVX-512, 6 x 16 with AVX2) is accumulated over
//   all
//            dimensions. It runs at the rate of the multiply-add units.
//   sparse   For each row and block, the positions of the non-zero numbers are listed. Each of these numbers
//            is multiplied by the vectors of a panel. Network features have 75 to 90 % zeros, so this does 4
//            to 10 times less work, limited by loads (9 loads for 8 multiply-adds).
//
// The share of zeros alone decides which one is faster. It is estimated from a sample of each block of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "core/aligned.hpp"
#include "core/decide.hpp"
#include "core/scorer.hpp"

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr std::int64_t kDepth = 64;  // dimensions of a block
constexpr std::int64_t kPanel = 8 * Vector::kWidth;
constexpr std::int64_t kHalfPanel = 4 * Vector::kWidth;
constexpr std::int64_t kBlockRows = 128;
constexpr std::int64_t kZeros = 160;  // pending zeros written for each segment

// Above this share of non-zero numbers `dense` is faster (measured, see benchmarks/README.md).
constexpr double kDenseShare = 0.6;
constexpr std::int64_t kSampledRows = 8;  // number of rows of a block from which the share is estimated

class PackedCenters {
 public:
  // Copies centers (k, d) and bias (k).
  PackedCenters(const float* centers, const float* bias, std::int64_t k_, std::int64_t d)
      : width((k_ + kHalfPanel - 1) / kHalfPanel * kHalfPanel),
        depth((d + kDepth - 1) / kDepth * kDepth),
        values_(static_cast<std::size_t>(width * depth)),
        bias_(static_cast<std::size_t>(width)) {
    std::fill_n(bias_.data(), bias_.size(), -std::numeric_limits<float>::infinity());
    std::copy(bias, bias + k_, bias_.data());
    if (width != k_ || depth != d) std::fill_n(values_.data(), values_.size(), 0.0F);
    // Squares of 16 x 16, so that both sides of the transposition stay in cache.
    constexpr std::int64_t kSquare = 16;
    for (std::int64_t k0 = 0; k0 < k_; k0 += kSquare) {
      const std::int64_t k1 = std::min(k_, k0 + kSquare), panel = k0 / kPanel * kPanel;
      const std::int64_t columns = panel_width(panel);
      for (std::int64_t j0 = 0; j0 < d; j0 += kSquare) {
        float* to = values_.data() + panel * depth + j0 * columns + k0 - panel;
        const std::int64_t count = std::min(kSquare, d - j0);
        for (std::int64_t k = k0; k < k1; ++k) {
          const float* row = centers + k * d + j0;
          for (std::int64_t j = 0; j < count; ++j) to[j * columns + k - k0] = row[j];
        }
      }
    }
  }

  // Number of centres of the panel that begins at centre `panel`: kPanel, or kHalfPanel for the last one.
  std::int64_t panel_width(std::int64_t panel) const { return std::min(kPanel, width - panel); }

  // The numbers of dimension j of that panel. Those of the next dimension follow.
  const float* at(std::int64_t panel, std::int64_t j) const {
    return values_.data() + panel * depth + j * panel_width(panel);
  }

  const float* bias() const { return bias_.data(); }

  std::int64_t width;  // number of centres, padded with centres of score -infinity
  std::int64_t depth;  // number of dimensions, padded with zeros

 private:
  AlignedBuffer<float> values_;
  AlignedBuffer<float> bias_;
};

// The numbers of one row in one block of dimensions, and the positions of the n numbers that are not zero.
struct Segment {
  const float* values;
  const std::uint8_t* positions;
  int n;
};

// Memory of a segment: its positions, and a padded copy of its numbers if the last block is not full.
struct SegmentBuffer {
  alignas(64) std::uint8_t positions[kDepth];
  alignas(64) float copy[kDepth];

  Segment read(const float* x, std::int64_t depth) {
    if (depth < kDepth) {
      std::memcpy(copy, x, static_cast<std::size_t>(depth) * sizeof(float));
      std::fill(copy + depth, copy + kDepth, 0.0F);
      x = copy;
    }
    return {x, positions, Vector::nonzeros(x, positions)};
  }
};

// to = from + the segment times a block of the panel, for a panel of kVectors vectors. One set of
// accumulators is enough, because the processor overlaps the end of a row with the beginning of the next.
template <std::size_t kVectors>
inline void add_segment(const Segment& segment, const float* block, const float* from, float* to) {
  Vector::Floats sums[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) sums[v] = Vector::load(from + v * Vector::kWidth);
  for (int i = 0; i < segment.n; ++i) {
    const std::size_t at = segment.positions[i];
    const auto value = Vector::broadcast(segment.values[at]);
    const float* centers = block + at * (kVectors * Vector::kWidth);
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[v] = Vector::multiply_add(value, Vector::load(centers + v * Vector::kWidth), sums[v]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v) Vector::store(to + v * Vector::kWidth, sums[v]);
}

// Prefetch the kDepth numbers at x, which need not be valid. The calls go in the order of addresses, which
// the processor's own prefetcher recognises; it does not recognise the rows of a block.
inline void prefetch(const float* x) {
  const char* line = reinterpret_cast<const char*>(x);
  for (std::int64_t byte = 0; byte < kDepth * 4; byte += 64) _mm_prefetch(line + byte, _MM_HINT_T1);
}

struct MultiplyFloats {
  static Vector::Floats add(Vector::Floats a, Vector::Floats b, Vector::Floats sum) {
    return Vector::multiply_add(a, b, sum);
  }
};

// The scores of kTileRows rows (d numbers each) for the two vectors of centres that begin at `column`.
template <class Multiply>
inline void dense_tile(const float* x, std::int64_t d, const PackedCenters& packed, std::int64_t column,
                       float* scores, std::int64_t stride) {
  Vector::Floats sums[Vector::kTileRows][2];
  for (int i = 0; i < Vector::kTileRows; ++i) {
    sums[i][0] = Vector::load(packed.bias() + column);
    sums[i][1] = Vector::load(packed.bias() + column + Vector::kWidth);
  }
  const std::int64_t panel = column / kPanel * kPanel, step = packed.panel_width(panel);
  const float* centers = packed.at(panel, 0) + column - panel;
  for (std::int64_t j = 0; j < d; ++j, ++x, centers += step) {
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
    return (k + kHalfPanel) * (d + kDepth) * static_cast<std::int64_t>(sizeof(float));
  }

  PackedScorer(const CenterSet& set, const ScorerOptions& options)
      : set_(set),
        method_(options.method),
        norm_(set.d),
        error_(set),
        packed_(set.centers, set.bias.data(), set.k, set.d) {
    stride = packed_.width;
    block_rows = rows_of_a_block(stride, kBlockRows);
  }

  void operator()(const float* x, std::int64_t n, const ScoredRows& to, ScorerHistory& /*history*/,
                  PendingZeros& zeros) const override {
    // Three loops, because the compiler can use vectors for the last two.
    for (std::int64_t row = 0; row < n; ++row) to.norms[row] = squared_norm(x + row * set_.d);
    for (std::int64_t row = 0; row < n; ++row) to.norms[row] = norm_.of(to.norms[row]);
    for (std::int64_t row = 0; row < n; ++row) to.errors[row] = error_.of(to.norms[row]);
    const bool is_sparse = n < Vector::kTileRows || method_ == Method::sparse ||
                           (method_ == Method::automatic && nonzero_share(x, n) < kDenseShare);
    is_sparse ? sparse(x, n, to.scores, zeros) : dense(x, n, to.scores, zeros);
  }

 protected:
  // |x|^2 in float32, as norm_ expects it.
  double squared_norm(const float* x) const {
    constexpr int kSums = 4;
    Vector::Floats sums[kSums] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
    constexpr std::int64_t kStep = kSums * Vector::kWidth;
    std::int64_t j = 0;
    for (; j + kStep <= set_.d; j += kStep) {
      for (int i = 0; i < kSums; ++i) {
        const auto values = Vector::load(x + j + i * Vector::kWidth);
        sums[i] = Vector::multiply_add(values, values, sums[i]);
      }
    }
    double rest = 0.0;
    for (; j < set_.d; ++j) rest += double{x[j]} * double{x[j]};
    const auto total = Vector::add(Vector::add(sums[0], sums[1]), Vector::add(sums[2], sums[3]));
    return rest + double{Vector::sum(total)};
  }

  double nonzero_share(const float* x, std::int64_t n) const {
    const std::int64_t step = std::max<std::int64_t>(1, n / kSampledRows);
    std::int64_t looked_at = 0, found = 0;
    for (std::int64_t row = 0; row < n; row += step) {
      const float* values = x + row * set_.d;
      std::int64_t j = 0;
      for (; j + Vector::kWidth <= set_.d; j += Vector::kWidth) found += Vector::count_nonzero(values + j);
      looked_at += j;
    }
    return looked_at == 0 ? 1.0 : static_cast<double>(found) / static_cast<double>(looked_at);
  }

  void sparse(const float* x, std::int64_t n, float* scores, PendingZeros& zeros) const {
    for (std::int64_t first = 0; first < set_.d; first += kDepth) {
      for (std::int64_t panel = 0; panel < stride; panel += kPanel) {
        const bool is_half = packed_.panel_width(panel) == kHalfPanel;
        is_half ? sparse_block<4>(x, n, first, panel, scores, zeros)
                : sparse_block<8>(x, n, first, panel, scores, zeros);
      }
    }
  }

  template <std::size_t kVectors>
  void sparse_block(const float* x, std::int64_t n, std::int64_t first, std::int64_t panel, float* scores,
                    PendingZeros& zeros) const {
    const float* block = packed_.at(panel, first);
    const float* bias = packed_.bias() + panel;
    const std::int64_t depth = std::min(kDepth, set_.d - first);
    const std::int64_t d = set_.d;
    SegmentBuffer buffers[2];
    const float* ahead = x + n * d + first * n;
    // The next segment is read while this one is multiplied.
    Segment segment = buffers[0].read(x + first, depth);
    for (std::int64_t row = 0; row < n; ++row) {
      Segment next = segment;
      if (row + 1 < n) next = buffers[(row + 1) % 2].read(x + (row + 1) * d + first, depth);
      if (panel == 0) prefetch(ahead + row * kDepth);
      zeros.some(kZeros);
      float* to = scores + row * stride + panel;
      add_segment<kVectors>(segment, block, first == 0 ? bias : to, to);
      segment = next;
    }
  }

  // n must be at least kTileRows. If n is not a multiple of it, the last tile overlaps the one before it.
  void dense(const float* x, std::int64_t n, float* scores, PendingZeros& zeros) const {
    for (std::int64_t done = 0; done < n; done += Vector::kTileRows) {
      const std::int64_t row = std::min(done, n - Vector::kTileRows);
      for (std::int64_t column = 0; column < stride; column += 2 * Vector::kWidth) {
        zeros.some(Vector::kTileRows * kZeros);
        dense_tile<MultiplyFloats>(x + row * set_.d, set_.d, packed_, column, scores + row * stride + column,
                                   stride);
      }
    }
  }

  const CenterSet& set_;
  Method method_;
  NormBound norm_;
  Float32Error error_;
  PackedCenters packed_;
};

// The scorer of an instruction set, or the BLAS scorer if the packed centres exceed their memory.
template <class OwnScorer>
std::unique_ptr<const Scorer> make_packed_or_sgemm(const CenterSet& set, const ScorerOptions& options) {
  if (PackedScorer::bytes(set.k, set.d) > options.pack_bytes) return make_sgemm_scorer(set, options.sgemm);
  return std::make_unique<OwnScorer>(set, options);
}

}  // namespace

}  // namespace medvlad
