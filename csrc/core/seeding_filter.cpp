#include "seeding_filter.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "lanes.hpp"
#include "size.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kBlockRows = 128;

// A float32 that is at most `value`. NaN stays NaN, -inf stays -inf.
float rounded_down(double value) { return -rounded_up(-value); }

}  // namespace

SeedingFilter::SeedingFilter(const RowsOf& from, const RoundedRows& rounded, CandidateScorer& scorer,
                             const double* norms, const std::int64_t* candidates, std::int64_t n_candidates,
                             const double* closest)
    : from_(from),
      rounded_(rounded),
      scorer_(scorer),
      norms_(norms),
      closest_(closest),
      n_candidates_(n_candidates),
      squared_scale_(double{rounded.scale} * double{rounded.scale}) {
  std::vector<float> values(size(n_candidates * from.d));
  for (std::int64_t t = 0; t < n_candidates; ++t) {
    const float* row = from[candidates[t]];
    for (std::int64_t j = 0; j < from.d; ++j) values[size(t * from.d + j)] = row[j] * rounded.scale;
  }
  scorer.prepare(values.data(), n_candidates);
  // Candidates that fill up the stride are never left.
  half_norms_.assign(size(scorer.stride), std::numeric_limits<float>::infinity());
  double most = 0.0;
  for (std::int64_t t = 0; t < n_candidates; ++t) {
    const double norm = norms[candidates[t]] * squared_scale_;
    half_norms_[size(t)] = static_cast<float>(0.5 * norm);
    most = std::max(most, norm);
  }
  max_norm_ = std::sqrt(most) * 1.0001;
  half_norm_ = 0.5 * max_norm_ * max_norm_;
  lost_ = scorer.lost + static_cast<double>(from.d) * double{FLT_MIN};  // scaled numbers may be denormal
}

void SeedingFilter::list(std::int64_t first, std::int64_t last, Buffer& buffer, std::vector<Left>& left,
                         Gains& gains) const {
  buffer.products.resize(size(kBlockRows * scorer_.stride));
  buffer.thresholds.resize(size(kBlockRows));
  buffer.bases.resize(size(kBlockRows));
  buffer.margins.resize(size(kBlockRows));
  const double twice_r = 2.0 * rounding_share(from_.d);
  const double gamma = 1.01 * scorer_.relative;
  for (std::int64_t begin = first; begin < last; begin += kBlockRows) {
    const std::int64_t n = std::min(last - begin, kBlockRows);
    scorer_(rounded_[begin], n, buffer.products.data());
    for (std::int64_t row = 0; row < n; ++row) {
      const std::int64_t i = begin + row;
      const double squared = norms_[i] * squared_scale_, lost = double{rounded_.lost[size(i)]};
      const double reach = std::sqrt(squared) * 1.0001 + lost;  // at least |y|
      const double error =
          lost * max_norm_ + reach * lost_ + gamma * (reach * max_norm_ + half_norm_) + scorer_.absolute;
      const double margin = 1.0001 * error + twice_r * (squared + 2.0 * half_norm_);
      const double base = 0.5 * (squared - closest_[i] * squared_scale_);
      buffer.bases[size(row)] = base;
      buffer.margins[size(row)] = margin;
      buffer.thresholds[size(row)] = rounded_down(base - margin);
    }
    for (std::int64_t row = 0; row < n; ++row) {
      const double base = buffer.bases[size(row)], margin = buffer.margins[size(row)];
      const double most = closest_[begin + row] * squared_scale_;
      gains.total += most;
      const float* products = buffer.products.data() + row * scorer_.stride;
      for (std::int64_t from = 0; from < n_candidates_; from += kFloatLanes) {
        std::uint32_t mask =
            not_below(products + from, half_norms_.data() + from, buffer.thresholds[size(row)]);
        for (; mask != 0; mask &= mask - 1) {
          const std::int64_t t = from + lowest_bit(mask);
          if (t >= n_candidates_) break;
          const double gain = double{products[t]} - double{half_norms_[size(t)]} - base;
          gains.least[size(t)] += std::min(most, std::max(0.0, 2.0 * (gain - margin)));
          gains.most[size(t)] += std::min(most, std::max(0.0, 2.0 * (gain + margin)));
          left.push_back({static_cast<std::int32_t>(begin + row - first), static_cast<std::int32_t>(t)});
        }
      }
    }
  }
}

std::vector<bool> SeedingFilter::contenders(const Gains& gains) const {
  // The potentials and the sums of the bounds are rounded once for each row.
  const double rounding = 8.0 * static_cast<double>(from_.n + 16) * 0x1p-53 * gains.total;
  const double best = *std::max_element(gains.least.begin(), gains.least.end());
  std::vector<bool> may_win(size(n_candidates_));
  for (std::int64_t t = 0; t < n_candidates_; ++t) {
    may_win[size(t)] = !(gains.most[size(t)] + rounding < best);
  }
  return may_win;
}

void SeedingFilter::Gains::add(const Gains& other) {
  for (std::size_t t = 0; t < least.size(); ++t) {
    least[t] += other.least[t];
    most[t] += other.most[t];
  }
  total += other.total;
}

}  // namespace medvlad
