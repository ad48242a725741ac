// Scores of rows with many zeros, from centres of 16 bits: each number that is not zero is multiplied by all
// centres.
//
// Two centres share a word of 32 bits. Its lower half is the bfloat16 of one of them. The whole word, read as
// a float32, is the number of the other one: its upper half is chosen so that the word is as close as
// possible. So a load, a shift and two multiply-adds serve two vectors of centres, and the centres take half
// the bytes. They are packed into panels of 4 vectors of words, dimension by dimension. Rows that lie side by
// side share many positions, so most of what they need of a panel stays in the first-level cache while the
// rows of a block are multiplied.
//
// Let b_k be these numbers for the centred centres c'_k (centred.hpp). The row is not rounded, so
//
//   x.c'_k = x.b_k + x.(c'_k - b_k),
//
// and the error of the score x.b_k - h_k, summed in float32, is at most
//
//   |x| max|c'_k - b_k| + gamma (|x| max|b_k| + max|h_k|) + underflow
//
// by the Cauchy-Schwarz inequality, with gamma for D + 4 roundings (decide.hpp). Products that underflow add
// at most FLT_MIN (2 + |x| + max|b_k|) for each dimension. The assigner scores candidates again (assign.hpp).
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/aligned.hpp"
#include "core/centred.hpp"
#include "core/decide.hpp"
#include "core/scorer.hpp"
#include "core/size.hpp"
// Must follow the header that defines Vector.
#include "rows.hpp"
#include "transpose.hpp"

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr std::int64_t kPair = 2 * Vector::kWidth;  // centres of a vector of words
constexpr int kPanelVectors = 4;                    // vectors of words of a panel
constexpr std::int64_t kPanel = kPanelVectors * kPair;
constexpr std::int64_t kPanelZeros = 3;       // pending zeros written for each dimension of a row, and panel
constexpr std::int64_t kPositions = 1 << 15;  // listed at a time
static_assert(kMostDimensions <= 1 << 16, "positions have 16 bits");

class PairedCenters {
 public:
  // Whether the error bound is finite: the products of larger centres might overflow float32.
  static bool fits(const CenterSet& set) { return set.max_norm < 1e18; }

  // `width`: number of centres with padding, a multiple of kPair.
  PairedCenters(const CenterSet& set, std::int64_t width)
      : d_(set.d),
        width_(width),
        norm_(set.d),
        error_(set),
        max_center_(set.max_norm),
        words_(size(width / 2 * set.d)),
        bias_(size(width)) {
    const Centred centred(set);
    std::fill_n(bias_.data(), bias_.size(), -std::numeric_limits<float>::infinity());
    std::copy(centred.bias.begin(), centred.bias.end(), bias_.data());
    max_half_ = centred.max_half;
    AlignedBuffer<float> rows(size(Vector::kWidth * d_));
    for (std::int64_t first = 0; first < width; first += kPair) pack(set, centred.mean, first, rows.data());
  }

  // Score n rows and write their norms and errors. The scores of a row are `stride` apart.
  void score(const float* x, std::int64_t n, std::int64_t stride, const ScoredRows& to,
             PendingZeros& zeros) const {
    const std::int64_t most = std::clamp<std::int64_t>(kPositions / d_, 1, n);  // rows at a time
    AlignedBuffer<std::uint16_t> positions(size(most * d_ + Vector::kFound));
    std::vector<std::int64_t> ends(size(most));
    for (std::int64_t first = 0; first < n; first += most) {
      const std::int64_t count = std::min(most, n - first);
      const float* rows = x + first * d_;
      std::int64_t end = 0;
      for (std::int64_t row = 0; row < count; ++row) {
        end += list_nonzeros(rows + row * d_, d_, positions.data() + end, to.norms[first + row]);
        ends[size(row)] = end;
      }
      // The next rows, which need not be valid, are prefetched meanwhile, a few cache lines at a time and in
      // the order of addresses.
      const float* ahead = rows + count * d_;
      const std::int64_t steps = 16 * ((width_ + kPanel - 1) / kPanel), lines = (d_ + steps - 1) / steps;
      for (std::int64_t panel = 0; panel < width_; panel += kPanel) {
        const std::uint16_t* listed = positions.data();
        for (std::int64_t row = 0; row < count; ++row) {
          const std::uint16_t* last = positions.data() + ends[size(row)];
          zeros.some(kPanelZeros * d_);
          for (std::int64_t line = 0; line < lines; ++line, ahead += 16) Vector::prefetch(ahead);
          multiply<kPanelVectors>(rows + row * d_, listed, last - listed, panel,
                                  to.scores + (first + row) * stride + panel);
          listed = last;
        }
      }
    }
    // Loops of their own, because the compiler can use vectors for them.
    for (std::int64_t row = 0; row < n; ++row) to.norms[row] = norm_.of(to.norms[row]);
    for (std::int64_t row = 0; row < n; ++row) to.errors[row] = error_of(to.norms[row]);
  }

 private:
  std::int64_t vectors_of(std::int64_t panel) const {
    return std::min<std::int64_t>(kPanelVectors, (width_ - panel) / kPair);
  }
  const float* words_of(std::int64_t panel) const { return words_.data() + panel / 2 * d_; }

  // Pack the kPair centres from `first` on. `rows` is memory for (Vector::kWidth, d) words.
  void pack(const CenterSet& set, const std::vector<float>& mean, std::int64_t first, float* rows) {
    // A centre beyond K is the mean, so its numbers are zeros.
    const auto center = [&](std::int64_t k) { return k < set.k ? set.centers + k * d_ : mean.data(); };
    for (std::int64_t i = 0; i < Vector::kWidth; ++i) {
      pair_up(center(first + i), center(first + Vector::kWidth + i), mean.data(), rows + i * d_);
    }
    const std::int64_t panel = first / kPanel * kPanel;
    transpose(rows, Vector::kWidth, d_, d_, words_.data() + panel / 2 * d_ + (first - panel) / 2,
              vectors_of(panel) * Vector::kWidth);
  }

  // Write the words of two centres, and see what they lose.
  void pair_up(const float* one, const float* other, const float* mean, float* words) {
    constexpr std::int64_t kLanes = 16;
    float squared[2][kLanes] = {}, lost[2][kLanes] = {};
    const auto pair_lane = [&](std::int64_t j, std::int64_t lane) {
      const float values[2] = {one[j] - mean[j], other[j] - mean[j]};
      float kept[2];
      const std::uint32_t word = word_of(values, kept);
      std::memcpy(words + j, &word, sizeof word);
      for (int i = 0; i < 2; ++i) {
        const float difference = values[i] - kept[i];
        squared[i][lane] += kept[i] * kept[i];
        lost[i][lane] += difference * difference;
      }
    };
    std::int64_t j = 0;
    for (; j + kLanes <= d_; j += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) pair_lane(j + lane, lane);
    }
    for (; j < d_; ++j) pair_lane(j, j % kLanes);
    for (int i = 0; i < 2; ++i) {
      double sum = 0.0, sum_lost = 0.0;
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        sum += double{squared[i][lane]};
        sum_lost += double{lost[i][lane]};
      }
      const double norm = norm_.of(sum), off = norm_.of(sum_lost);
      max_norm_ = std::max(max_norm_, norm);
      // c_k - mu and the differences were rounded to float32.
      max_lost_ = std::max(max_lost_, off + 0x1p-22 * (norm + off));
    }
  }

  // The word of two numbers, and the numbers that it holds.
  static std::uint32_t word_of(const float (&values)[2], float (&kept)[2]) {
    constexpr std::uint32_t kSign = 0x80000000U, kHalf = 0x8000U, kUpper = 0xFFFF0000U;
    constexpr std::uint32_t kLeast = 0x00800000U;  // a denormal word would be slow
    std::uint32_t lower, other;
    std::memcpy(&lower, &values[0], sizeof lower);
    std::memcpy(&other, &values[1], sizeof other);
    lower = (lower + 0x7FFFU + ((lower >> 16) & 1U)) & kUpper;  // the nearest bfloat16, ties to even
    std::memcpy(&kept[0], &lower, sizeof lower);
    lower >>= 16;
    const std::uint32_t magnitude = std::max((other & ~kSign) + kHalf, lower) - lower;
    const std::uint32_t word = (other & kSign) | std::max(magnitude & kUpper, kLeast) | lower;
    std::memcpy(&kept[1], &word, sizeof word);
    return word;
  }

  // to = bias + the numbers of a row at n positions times a panel, which has up to kVectors vectors of words.
  template <int kVectors>
  void multiply(const float* x, const std::uint16_t* positions, std::int64_t n, std::int64_t panel,
                float* to) const {
    if constexpr (kVectors > 1) {
      if (vectors_of(panel) < kVectors) return multiply<kVectors - 1>(x, positions, n, panel, to);
    }
    const float *words = words_of(panel), *bias = bias_.data() + panel;
    Vector::Floats first[std::size_t{kVectors}], second[std::size_t{kVectors}];
    for (int v = 0; v < kVectors; ++v) {
      first[v] = Vector::load(bias + v * kPair);
      second[v] = Vector::load(bias + v * kPair + Vector::kWidth);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = positions[i];
      const auto value = Vector::broadcast(x[at]);
      const float* centers = words + at * kVectors * Vector::kWidth;
      for (int v = 0; v < kVectors; ++v) {
        const auto word = Vector::in_register(Vector::load(centers + v * Vector::kWidth));
        first[v] = Vector::multiply_add(value, Vector::lower_halves(word), first[v]);
        second[v] = Vector::multiply_add(value, word, second[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      Vector::store(to + v * kPair, first[v]);
      Vector::store(to + v * kPair + Vector::kWidth, second[v]);
    }
  }

  double error_of(double row) const {
    const double magnitude = row * (max_norm_ + max_center_) + max_half_;
    if (!(magnitude < 1e37)) return std::numeric_limits<double>::infinity();
    const double underflow = static_cast<double>(d_ + 4) * double{FLT_MIN} * (2.0 + row + max_norm_);
    return row * max_lost_ + error_.relative() * (row * max_norm_ + max_half_) + underflow;
  }

  std::int64_t d_, width_;
  NormBound norm_;
  Float32Error error_;
  double max_center_, max_half_ = 0.0;
  double max_norm_ = 0.0, max_lost_ = 0.0;  // bounds on |b_k| and |c'_k - b_k|
  AlignedBuffer<float> words_, bias_;
};

}  // namespace

}  // namespace medvlad
