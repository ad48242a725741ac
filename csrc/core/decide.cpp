#include "decide.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "lanes64.hpp"

namespace medvlad {

namespace {

// gamma_m = m u / (1 - m u) for m roundings of unit roundoff u. Infinite if m u >= 1/2: the bound says
// nothing then.
double gamma(double m, double u) {
  const double mu = m * u;
  return mu < 0.5 ? mu / (1.0 - mu) : std::numeric_limits<double>::infinity();
}

double dot(const float* a, const float* b, std::int64_t d) {
  Lanes64 lanes = broadcast(0.0);
  std::int64_t i = 0;
  for (; i + kDoubles <= d; i += kDoubles) lanes = exact_multiply_add(widen(a + i), widen(b + i), lanes);
  double total = sum(lanes);
  for (; i < d; ++i) total += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return total;
}

// A sum of doubles without rounding: it is kept as non-overlapping parts of increasing magnitude.
class ExactSum {
 public:
  void add(double term) {
    std::size_t kept = 0;
    for (double part : parts_) {
      if (std::fabs(term) < std::fabs(part)) std::swap(term, part);
      const double high = term + part;
      const double low = part - (high - term);
      if (low != 0.0) parts_[kept++] = low;
      term = high;
    }
    parts_.resize(kept);
    // A zero as the largest part would hide the sign of the smaller parts.
    if (term != 0.0) parts_.push_back(term);
  }

  // The largest part is larger than the sum of all others, so it gives the sign.
  bool positive() const { return !parts_.empty() && parts_.back() > 0.0; }

 private:
  std::vector<double> parts_;
};

// Whether the real score of centre `a` is larger than that of centre `b`.
bool beats(const float* x, const float* a, const float* b, std::int64_t d) {
  if (std::memcmp(a, b, static_cast<std::size_t>(d) * sizeof(float)) == 0) return false;
  ExactSum sum;
  for (std::int64_t i = 0; i < d; ++i) {
    const double xi = x[i], ai = a[i], bi = b[i];
    sum.add(2.0 * xi * ai);
    sum.add(-2.0 * xi * bi);
    sum.add(-ai * ai);
    sum.add(bi * bi);
  }
  return sum.positive();
}

}  // namespace

// A square may lose up to FLT_MIN to underflow.
NormBound::NormBound(std::int64_t d)
    : factor_((1.0 + gamma(static_cast<double>(d) / 16.0 + 16.0, 0x1p-24)) * 1.0001),
      underflow_(static_cast<double>(d) * double{FLT_MIN}) {}

double norm_bound(const float* x, std::int64_t d) {
  constexpr int kSums = 16;
  float lanes[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums <= d; i += kSums) {
    for (int j = 0; j < kSums; ++j) lanes[j] += x[i + j] * x[i + j];
  }
  double squared = 0.0;
  for (; i < d; ++i) squared += double{x[i]} * double{x[i]};
  for (const float lane : lanes) squared += double{lane};
  return NormBound(d).of(squared);
}

CenterSet::CenterSet(const float* centers_, std::int64_t k_, std::int64_t d_)
    : centers(centers_),
      k(k_),
      d(d_),
      half_norms(static_cast<std::size_t>(k_)),
      bias(static_cast<std::size_t>(k_)) {
  for (std::int64_t i = 0; i < k; ++i) {
    const double norm = dot(centers + i * d, centers + i * d, d);
    half_norms[static_cast<std::size_t>(i)] = 0.5 * norm;
    // If the value exceeds float32, any finite bias will do, because the error bound is then infinite.
    bias[static_cast<std::size_t>(i)] = static_cast<float>(std::max(-0.5 * norm, -double{FLT_MAX}));
    max_norm = std::max(max_norm, std::sqrt(norm));
  }
}

Float32Error::Float32Error(const CenterSet& set)
    : max_norm_(set.max_norm), half_norm_(0.5 * set.max_norm * set.max_norm) {
  const double roundings = static_cast<double>(set.d) + 4.0;
  gamma_ = 1.0001 * gamma(roundings, 0x1p-24);
  underflow_ = roundings * double{FLT_MIN};
}

std::int32_t decide(const float* x, const CenterSet& set, const std::vector<std::int32_t>& candidates) {
  if (candidates.size() == 1) return candidates.front();
  std::vector<double> scores(candidates.size());
  double best = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const std::int64_t k = candidates[i];
    scores[i] = dot(x, set.centers + k * set.d, set.d) - set.half_norms[static_cast<std::size_t>(k)];
    best = std::max(best, scores[i]);
  }
  const double row_norm = 1.0001 * std::sqrt(dot(x, x, set.d));
  const double magnitude = row_norm * set.max_norm + 0.5 * set.max_norm * set.max_norm;
  const double slack = 2.0 * 1.0001 * gamma(static_cast<double>(set.d) + 4.0, 0x1p-53) * magnitude;
  std::int32_t winner = -1;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (scores[i] < best - slack) continue;
    const std::int32_t k = candidates[i];
    if (winner < 0 || beats(x, set.centers + k * set.d, set.centers + winner * set.d, set.d)) winner = k;
  }
  return winner;
}

}  // namespace medvlad
