#include "assign.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "lanes.hpp"
#include "size.hpp"

namespace medvlad {

namespace {

// A float32 that is at most `value`, for values in the range of float32. NaN stays NaN, -inf stays -inf.
float rounded_down(double value) {
  const auto nearest = static_cast<float>(value);
  return nearest - std::fabs(nearest) * 0x1p-23F - FLT_MIN;
}

}  // namespace

Assigner::Assigner(const CenterSet& set, const Scorer& scorer)
    : set_(set),
      scorer_(scorer),
      float32_error_(set),
      scores_(size(scorer.block_rows * scorer.stride)),
      thresholds_(size(scorer.block_rows)),
      errors_(size(scorer.block_rows)),
      norms_(size(scorer.block_rows)) {}

void Assigner::operator()(const float* x, std::int64_t n, std::int32_t* labels, PendingZeros& zeros) {
  for (std::int64_t first = 0; first < n; first += scorer_.block_rows) {
    const std::int64_t rows = std::min(scorer_.block_rows, n - first);
    const float* block = x + first * set_.d;
    if (not_finite_ == nullptr) {
      history_.begin_block();
      scorer_(block, rows, {scores_.data(), errors_.data(), norms_.data()}, history_, zeros);
      find_not_finite(block, rows);
    }
    // The caller raises an error, so the labels only have to be within range.
    if (not_finite_ == nullptr) {
      history_.end_block(rows, label(block, rows, labels + first));
    } else {
      std::fill_n(labels + first, rows, 0);
    }
  }
}

void Assigner::find_not_finite(const float* x, std::int64_t n) {
  double total = 0.0;
  for (std::int64_t row = 0; row < n; ++row) total += norms_[size(row)];
  if (std::isfinite(total)) return;
  // A norm can also be infinite because squares overflow.
  for (const float* value = x; value < x + n * set_.d; ++value) {
    if (std::isfinite(*value)) continue;
    not_finite_ = x + (value - x) / set_.d * set_.d;
    return;
  }
}

// Three loops over the block, because the processor can work on several rows at once in each of them.
double Assigner::label(const float* x, std::int64_t n, std::int32_t* labels) {
  const std::int64_t whole = set_.k - set_.k % kFloatLanes;
  const float* scores = scores_.data();
  float* thresholds = thresholds_.data();
  for (std::int64_t row = 0; row < n; ++row) {
    const float* of_row = scores + row * scorer_.stride;
    float best = whole > 0 ? largest(of_row, whole) : of_row[0];
    for (std::int64_t k = whole; k < set_.k; ++k) best = std::max(best, of_row[k]);
    thresholds[row] = best;
  }
  // An infinite error bound gives a threshold that keeps every centre, even one whose score is NaN.
  for (std::int64_t row = 0; row < n; ++row) {
    thresholds[row] = rounded_down(double{thresholds[row]} - 2.0 * errors_[size(row)]);
  }
  std::int64_t candidates = 0;
  for (std::int64_t row = 0; row < n; ++row) {
    const float* of_row = scores + row * scorer_.stride;
    const float threshold = thresholds[row];
    // Nearly always exactly one centre is left. This loop finds it without a branch on its position.
    int kept = 0;
    std::int64_t last = -1, k = 0;
    for (; k + 4 * kFloatLanes <= whole; k += 4 * kFloatLanes) {
      std::uint64_t mask = 0;
      for (int i = 0; i < 4; ++i) {
        mask |= std::uint64_t{not_below(of_row + k + i * kFloatLanes, threshold)} << (i * kFloatLanes);
      }
      kept += count_bits(mask);
      last = mask != 0 ? k + lowest_bit(mask) : last;
    }
    for (; k < set_.k; ++k) {
      const bool is_kept = !(of_row[k] < threshold);
      kept += static_cast<int>(is_kept);
      last = is_kept ? k : last;
    }
    candidates += kept;
    labels[row] = kept == 1 ? static_cast<std::int32_t>(last)
                            : decide_row(x + row * set_.d, of_row, threshold, norms_[size(row)]);
  }
  return static_cast<double>(candidates) / static_cast<double>(n);
}

std::int32_t Assigner::decide_row(const float* x, const float* scores, float threshold, double norm) {
  candidates_.clear();
  const std::int64_t whole = set_.k - set_.k % kFloatLanes;
  for (std::int64_t k = 0; k < whole; k += kFloatLanes) {
    for (std::uint64_t kept = not_below(scores + k, threshold); kept != 0; kept &= kept - 1) {
      candidates_.push_back(static_cast<std::int32_t>(k + lowest_bit(kept)));
    }
  }
  for (std::int64_t k = whole; k < set_.k; ++k) {
    if (!(scores[k] < threshold)) candidates_.push_back(static_cast<std::int32_t>(k));
  }
  // A float32 score costs a third of a float64 score and rules out nearly all other candidates.
  const double error = float32_error_.of(norm);
  if (std::isfinite(error)) {
    refined_.clear();
    float best = -std::numeric_limits<float>::infinity();
    for (const std::int32_t k : candidates_) {
      refined_.push_back(dot(x, set_.centers + k * set_.d, set_.d) + set_.bias[size(k)]);
      best = std::max(best, refined_.back());
    }
    const float closer = rounded_down(double{best} - 2.0 * error);
    std::size_t left = 0;
    for (std::size_t i = 0; i < refined_.size(); ++i) {
      if (!(refined_[i] < closer)) candidates_[left++] = candidates_[i];
    }
    candidates_.resize(left);
  }
  return decide(x, set_, candidates_);
}

}  // namespace medvlad
