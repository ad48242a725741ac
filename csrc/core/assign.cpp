#include "assign.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "lanes.hpp"

namespace medvlad {

namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

constexpr std::size_t kFew = 2;  // candidates that float64 decides at once

float float32_dot(const float* a, const float* b, std::int64_t d) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  for (; i < d; ++i) lanes[0] += a[i] * b[i];
  return lanes[0];
}

// A float32 at most `value`, for finite values within float32; not a number or -inf where `value` is.
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
      errors_(size(scorer.block_rows)) {}

void Assigner::operator()(const float* x, std::int64_t n, std::int32_t* labels, PendingZeros& zeros) {
  for (std::int64_t first = 0; first < n; first += scorer_.block_rows) {
    const std::int64_t rows = std::min(scorer_.block_rows, n - first);
    scorer_(x + first * set_.d, rows, scores_.data(), errors_.data(), zeros);
    label(x + first * set_.d, rows, labels + first);
  }
}

// In three loops over the block, each of which the processor can overlap over rows.
void Assigner::label(const float* x, std::int64_t n, std::int32_t* labels) {
  const std::int64_t whole = set_.k - set_.k % kLanes;
  const float* scores = scores_.data();
  float* thresholds = thresholds_.data();
  for (std::int64_t row = 0; row < n; ++row) {
    const float* of_row = scores + row * scorer_.stride;
    float best = whole > 0 ? largest(of_row, whole) : of_row[0];
    for (std::int64_t k = whole; k < set_.k; ++k) best = std::max(best, of_row[k]);
    thresholds[row] = best;
  }
  // An infinite bound makes a threshold that keeps every centre in, scores that are not numbers included.
  for (std::int64_t row = 0; row < n; ++row) {
    thresholds[row] = rounded_down(double{thresholds[row]} - 2.0 * errors_[size(row)]);
  }
  for (std::int64_t row = 0; row < n; ++row) {
    const float* of_row = scores + row * scorer_.stride;
    const float threshold = thresholds[row];
    // Nearly always one centre is left; finding it takes no branch that depends on where it is.
    int kept = 0;
    std::int64_t last = -1, k = 0;
    for (; k + 4 * kLanes <= whole; k += 4 * kLanes) {
      std::uint64_t mask = 0;
      for (int i = 0; i < 4; ++i) {
        mask |= std::uint64_t{not_below(of_row + k + i * kLanes, threshold)} << (i * kLanes);
      }
      kept += count_bits(mask);
      last = mask != 0 ? k + lowest_bit(mask) : last;
    }
    for (; k < set_.k; ++k) {
      const bool is_kept = !(of_row[k] < threshold);
      kept += static_cast<int>(is_kept);
      last = is_kept ? k : last;
    }
    labels[row] =
        kept == 1 ? static_cast<std::int32_t>(last) : decide_row(x + row * set_.d, of_row, threshold);
  }
}

std::int32_t Assigner::decide_row(const float* x, const float* scores, float threshold) {
  candidates_.clear();
  for (std::int64_t k = 0; k < set_.k; ++k) {
    if (!(scores[k] < threshold)) candidates_.push_back(static_cast<std::int32_t>(k));
  }
  // A float32 score for each candidate costs a third of a float64 one and leaves hardly any.
  const double error = candidates_.size() > kFew ? float32_error_.of(norm_bound(x, set_.d))
                                                 : std::numeric_limits<double>::infinity();
  if (std::isfinite(error)) {
    refined_.clear();
    float best = -std::numeric_limits<float>::infinity();
    for (const std::int32_t k : candidates_) {
      refined_.push_back(float32_dot(x, set_.centers + k * set_.d, set_.d) + set_.bias[size(k)]);
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
