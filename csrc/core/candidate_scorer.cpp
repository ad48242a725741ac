#include "candidate_scorer.hpp"

#include <algorithm>
#include <cfloat>
#include <limits>

#include "aligned.hpp"
#include "lanes32.hpp"
#include "size.hpp"

namespace medvlad {

namespace {

// Numbers of candidates and rows that are multiplied with each other at a time. Their sums fill the
// registers.
constexpr int kGroup = kFloats == 16 ? 8 : 4;
constexpr int kRows = 2;
constexpr std::int64_t kBlockRows = 16;  // rows that stay in the first-level cache for all groups
constexpr std::int64_t kAhead = 8;       // number of rows to prefetch
constexpr std::int64_t kLanesOfStride = 16;

class FloatCandidateScorer final : public CandidateScorer {
 public:
  explicit FloatCandidateScorer(std::int64_t d) : d_(d), words_((d + 31) / 32 * 16) {
    const double roundings = static_cast<double>(2 * words_) + 8.0, share = roundings * 0x1p-24;
    relative = share < 0.5 ? share / (1.0 - share) : std::numeric_limits<double>::infinity();
    absolute = roundings * double{FLT_MIN};
  }

  // The candidates of a group, in steps of kFloats words: the first numbers of the words of one candidate,
  // the second numbers, then those of the next candidate.
  void prepare(const float* candidates, std::int64_t n) override {
    n_groups_ = (n + kGroup - 1) / kGroup;
    stride = (n + kLanesOfStride - 1) / kLanesOfStride * kLanesOfStride;
    values_.reserve(size(n_groups_ * kGroup * 2 * words_));
    std::fill_n(values_.data(), values_.size(), 0.0F);
    for (std::int64_t t = 0; t < n; ++t) {
      float* to = values_.data() + t / kGroup * kGroup * 2 * words_ + t % kGroup * 2 * kFloats;
      for (std::int64_t j = 0; j < d_; ++j) {
        const std::int64_t word = j / 2, step = word / kFloats;
        to[step * kGroup * 2 * kFloats + j % 2 * kFloats + word % kFloats] = candidates[t * d_ + j];
      }
    }
  }

  void operator()(const std::uint32_t* rows, std::int64_t n, float* products) const override {
    for (std::int64_t begin = 0; begin < n; begin += kBlockRows) {
      const std::int64_t end = std::min(n, begin + kBlockRows);
      for (std::int64_t group = 0; group < n_groups_; ++group) {
        for (std::int64_t row = begin; row < end; row += kRows) {
          const std::int64_t second = std::min(row + 1, end - 1);  // the last row may be multiplied twice
          float sums[kRows * kGroup];
          // Rows of the next call are near the end of this one. Prefetching them needs no valid address.
          const std::uint32_t* ahead = rows + (group == 0 ? row + kAhead : row) * words_;
          multiply(rows + row * words_, rows + second * words_, group, ahead, sums);
          std::copy(sums, sums + kGroup, products + row * stride + group * kGroup);
          std::copy(sums + kGroup, sums + 2 * kGroup, products + second * stride + group * kGroup);
        }
      }
    }
  }

 private:
  void multiply(const std::uint32_t* a, const std::uint32_t* b, std::int64_t group,
                const std::uint32_t* ahead, float* sums) const {
    const float* c = values_.data() + group * kGroup * 2 * words_;
    Lanes32 lanes[kRows * kGroup] = {};
    for (std::int64_t word = 0; word < words_; word += kFloats) {
      const Widened x(a + word), y(b + word);
      prefetch_words(ahead + 2 * word);
      prefetch_words(ahead + 2 * word + kFloats);
      for (int t = 0; t < kGroup; ++t, c += 2 * kFloats) {
        const Lanes32 first = in_register(load_lanes(c)), second = in_register(load_lanes(c + kFloats));
        lanes[t] = multiply_add(x.first, first, lanes[t]);
        lanes[kGroup + t] = multiply_add(y.first, first, lanes[kGroup + t]);
        lanes[t] = multiply_add(x.second, second, lanes[t]);
        lanes[kGroup + t] = multiply_add(y.second, second, lanes[kGroup + t]);
      }
    }
    sum_lanes(lanes, sums);
  }

  std::int64_t d_, words_, n_groups_ = 0;
  AlignedBuffer<float> values_;
};

}  // namespace

std::unique_ptr<CandidateScorer> make_float_candidate_scorer(std::int64_t d) {
  if (kFloats == 1) return nullptr;
  return std::make_unique<FloatCandidateScorer>(d);
}

}  // namespace medvlad
