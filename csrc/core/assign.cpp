#include "assign.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "lanes.hpp"

namespace medvlad {

namespace {

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

constexpr int kFew = 2;  // candidates that float64 decides at once

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

// A float32 at most `value`, for finite values within float32.
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
      errors_(size(scorer.block_rows)) {}

void Assigner::operator()(const float* x, std::int64_t n, std::int32_t* labels, PendingZeros& zeros) {
  for (std::int64_t first = 0; first < n; first += scorer_.block_rows) {
    const std::int64_t rows = std::min(scorer_.block_rows, n - first);
    const float* block = x + first * set_.d;
    scorer_(block, rows, scores_.data(), errors_.data(), zeros);
    for (std::int64_t row = 0; row < rows; ++row) {
      labels[first + row] =
          label(block + row * set_.d, scores_.data() + row * scorer_.stride, errors_[size(row)]);
    }
  }
}

std::int32_t Assigner::label(const float* x, const float* scores, double error) {
  const std::int64_t whole = set_.k - set_.k % kLanes;
  // An infinite bound keeps every centre in, scores that are not numbers included.
  float threshold = -std::numeric_limits<float>::infinity();
  if (!std::isinf(error)) {
    float best = whole > 0 ? largest(scores, whole) : scores[0];
    for (std::int64_t k = whole; k < set_.k; ++k) best = std::max(best, scores[k]);
    threshold = rounded_down(double{best} - 2.0 * error);
  }
  // Nearly always one centre is left; finding it takes no branch that depends on where it is.
  int kept = 0;
  std::int64_t last = -1;
  for (std::int64_t k = 0; k < whole; k += kLanes) {
    const std::uint32_t mask = not_below(scores + k, threshold);
    kept += count_bits(mask);
    last = mask != 0 ? k + lowest_bit(mask) : last;
  }
  for (std::int64_t k = whole; k < set_.k; ++k) {
    const bool is_kept = !(scores[k] < threshold);
    kept += is_kept;
    last = is_kept ? k : last;
  }
  if (kept == 1) return static_cast<std::int32_t>(last);
  candidates_.clear();
  for (std::int64_t k = 0; k < set_.k; ++k) {
    if (!(scores[k] < threshold)) candidates_.push_back(static_cast<std::int32_t>(k));
  }
  if (kept > kFew && !std::isinf(error)) refine(x);
  return decide(x, set_, candidates_);
}

// A float32 score for each candidate costs a third of a float64 one and leaves hardly any.
void Assigner::refine(const float* x) {
  const double error = float32_error_.of(norm_bound(x, set_.d));
  if (std::isinf(error)) return;
  refined_.clear();
  float best = -std::numeric_limits<float>::infinity();
  for (const std::int32_t k : candidates_) {
    refined_.push_back(float32_dot(x, set_.centers + k * set_.d, set_.d) + set_.bias[size(k)]);
    best = std::max(best, refined_.back());
  }
  const float threshold = rounded_down(double{best} - 2.0 * error);
  std::size_t left = 0;
  for (std::size_t i = 0; i < refined_.size(); ++i) {
    if (refined_[i] >= threshold) candidates_[left++] = candidates_[i];
  }
  candidates_.resize(left);
}

}  // namespace medvlad
