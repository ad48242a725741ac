// Scores from bfloat16 products, for rows with few zeros. One instruction does two multiply-adds for each
// lane.
//
// With the centred centres c'_k of centred.hpp, b_k = bf16(c'_k) and y = bf16(x),
//
//   x.c'_k = y.b_k + (x - y).b_k + x.(c'_k - b_k),
//
// so the error of the score y.b_k - h_k, summed in float32, is at most
//
//   |x - y| max|b_k| + |x| max|c'_k - b_k| + gamma (|y| max|b_k| + max|h_k|) + underflow
//
// by the Cauchy-Schwarz inequality, with gamma for D + 4 roundings (products of bfloat16 are exact in
// float32). The instruction treats denormals as zeros, which adds at most FLT_MIN (2 + |x| + max|b_k|) for
// each dimension. |x - y| is measured, because its 16 bits are exact in float32. The assigner scores
// candidates again (assign.hpp).
//
// Some processors run this instruction at a quarter of the rate of others, so its speed is measured once.
#pragma once

#include <algorithm>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "core/centred.hpp"
#include "core/lazy.hpp"
#include "core/size.hpp"
#include "packed.hpp"

namespace medvlad {

namespace {

// Above this share of non-zero numbers bf16 is faster, if its instruction runs at full rate.
constexpr double kBf16Share = 0.3;

struct MultiplyPairs {
  static __m512 add(__m512 a, __m512 b, __m512 sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

// The nearest bfloat16, ties to even, as the upper half of a float32. The value must be finite.
inline float rounded_to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7FFFU + ((bits >> 16) & 1U)) & 0xFFFF0000U;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

// Two bfloat16 numbers in one float32, the first in the lower half.
inline float pair_of(float first, float second) {
  std::uint32_t low, high;
  std::memcpy(&low, &first, sizeof low);
  std::memcpy(&high, &second, sizeof high);
  low = (low >> 16) | high;
  std::memcpy(&first, &low, sizeof low);
  return first;
}

// Seconds for a fixed number of independent multiply-adds of one kind.
template <class Multiply>
double seconds_of() {
  constexpr int kChains = 12, kSteps = 2000, kRepeats = 5;
  double best = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    __m512 sums[kChains];
    for (__m512& one : sums) one = _mm512_setzero_ps();
    // NOLINTNEXTLINE(misc-const-correctness): the assembly below is declared to write it
    __m512 factor = _mm512_set1_ps(1.0F);
    const auto begin = std::chrono::steady_clock::now();
    for (int step = 0; step < kSteps; ++step) {
      for (__m512& one : sums) one = Multiply::add(factor, factor, one);
      __asm__ volatile("" : "+v"(factor));  // keeps the compiler from computing the loop in advance
    }
    for (const __m512& one : sums) __asm__ volatile("" ::"v"(one));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::min(best, elapsed.count());
  }
  return best;
}

// Whether the bf16 instruction, which does twice the work, takes less than 1.3 times as long as a
// multiply-add.
inline bool is_bf16_fast() {
  static const bool fast = seconds_of<MultiplyPairs>() < 1.3 * seconds_of<MultiplyFloats>();
  return fast;
}

// Centres as pairs of bfloat16 numbers, with the largest norms that the bounds need.
struct Bf16Centers {
  explicit Bf16Centers(const CenterSet& set) {
    const std::int64_t k = set.k, d = set.d, pairs = (d + 1) / 2;
    const Centred from(set);
    std::vector<float> rounded(size(k * pairs));
    for (std::int64_t i = 0; i < k; ++i) {
      double squared = 0.0, squared_error = 0.0;
      const auto centred = [&](std::int64_t j) {
        if (j >= d) return 0.0F;
        const double exact = double{set.centers[i * d + j]} - double{from.mean[size(j)]};
        const float value = rounded_to_bf16(static_cast<float>(exact));
        squared += double{value} * double{value};
        squared_error += (exact - double{value}) * (exact - double{value});
        return value;
      };
      for (std::int64_t pair = 0; pair < pairs; ++pair) {
        const float first = centred(2 * pair), second = centred(2 * pair + 1);
        rounded[size(i * pairs + pair)] = pair_of(first, second);
      }
      max_norm = std::max(max_norm, 1.0001 * std::sqrt(squared));
      max_error = std::max(max_error, 1.0001 * std::sqrt(squared_error));
    }
    max_half = from.max_half;
    packed = std::make_unique<PackedCenters>(rounded.data(), from.bias.data(), k, pairs);
  }

  double max_norm = 0.0, max_error = 0.0, max_half = 0.0;  // |b_k|, |c'_k - b_k| and |h_k|
  std::unique_ptr<const PackedCenters> packed;
};

class Bf16Scorer final : public PackedScorer {
 public:
  Bf16Scorer(const CenterSet& set, const ScorerOptions& options)
      : PackedScorer(set, options), pairs_((set.d + 1) / 2) {
    // The bfloat16 copy needs half of this, and as much again while it is made.
    const bool fits = 2 * bytes(set.k, set.d) <= options.pack_bytes;
    const bool wanted = method_ == Method::bf16 || (method_ == Method::automatic && is_bf16_fast());
    // Larger centres might overflow float32. Their error bound is infinite anyway.
    has_bf16_ = fits && wanted && set.max_norm < 1e18;
  }

  void operator()(const float* x, std::int64_t n, const ScoredRows& to, ScorerHistory& history,
                  PendingZeros& zeros) const override {
    const bool use = has_bf16_ && n >= Vector::kTileRows &&
                     (method_ == Method::bf16 || nonzero_share(x, n, set_.d) > kBf16Share);
    use ? bf16(x, n, to, zeros) : PackedScorer::operator()(x, n, to, history, zeros);
  }

 private:
  void bf16(const float* x, std::int64_t n, const ScoredRows& to, PendingZeros& zeros) const {
    const Bf16Centers& centers = centers_.get([&] { return std::make_unique<Bf16Centers>(set_); });
    AlignedBuffer<float> rows(size(Vector::kTileRows * pairs_));
    for (std::int64_t done = 0; done < n; done += Vector::kTileRows) {
      const std::int64_t row = std::min(done, n - Vector::kTileRows);
      for (std::int64_t i = 0; i < Vector::kTileRows; ++i) {
        to.norms[row + i] = norm_.of(squared_norm(x + (row + i) * set_.d, set_.d));
        to.errors[row + i] =
            round_row(x + (row + i) * set_.d, to.norms[row + i], centers, rows.data() + i * pairs_);
      }
      for (std::int64_t column = 0; column < stride; column += kTileColumns) {
        zeros.some(Vector::kTileRows * kZeros);
        dense_tile<MultiplyPairs>(rows.data(), pairs_, *centers.packed, column,
                                  to.scores + row * stride + column, stride);
      }
    }
  }

  // Write the row in bfloat16 and return the bound on the errors of its scores.
  double round_row(const float* x, double row_norm, const Bf16Centers& centers, float* pairs) const {
    const std::int64_t whole = set_.d / 32 * 32;
    __m512 lost = _mm512_setzero_ps();
    for (std::int64_t j = 0; j < whole; j += 32) {
      const __m512 low = _mm512_loadu_ps(x + j), high = _mm512_loadu_ps(x + j + 16);
      const __m512i rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
      _mm512_storeu_si512(pairs + j / 2, rounded);
      const __m512 low_lost = _mm512_sub_ps(low, widen_half(_mm512_castsi512_si256(rounded)));
      const __m512 high_lost = _mm512_sub_ps(high, widen_half(_mm512_extracti64x4_epi64(rounded, 1)));
      lost = _mm512_fmadd_ps(low_lost, low_lost, lost);
      lost = _mm512_fmadd_ps(high_lost, high_lost, lost);
    }
    double squared_lost = double{_mm512_reduce_add_ps(lost)};
    for (std::int64_t j = whole; j < set_.d; j += 2) {
      const float first = rounded_to_bf16(x[j]), second = j + 1 < set_.d ? rounded_to_bf16(x[j + 1]) : 0.0F;
      pairs[j / 2] = pair_of(first, second);
      const double first_lost = double{x[j]} - double{first};
      const double second_lost = j + 1 < set_.d ? double{x[j + 1]} - double{second} : 0.0;
      squared_lost += first_lost * first_lost + second_lost * second_lost;
    }
    const double magnitude = row_norm * (centers.max_norm + set_.max_norm) + centers.max_half;
    if (!(magnitude < 1e37)) return std::numeric_limits<double>::infinity();
    const double d = static_cast<double>(set_.d);
    const double underflow = (d + 4.0) * double{FLT_MIN} * (2.0 + row_norm + centers.max_norm);
    return norm_.of(squared_lost) * centers.max_norm + row_norm * centers.max_error +
           error_.relative() * (1.01 * row_norm * centers.max_norm + centers.max_half) + underflow;
  }

  static __m512 widen_half(__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }

  std::int64_t pairs_;
  bool has_bf16_ = false;
  Lazy<Bf16Centers> centers_;
};

}  // namespace

}  // namespace medvlad
