// Nearest centres, exact decision for rows whose first pass (assign.cuh) left several candidates.
//
// The candidates' scores s_k = x.c_k - |c_k|^2 / 2 are summed in float64, where a product of two float32 is
// exact and the error of the sum is at most eps (medvlad/backends/reference.py). Candidates within 2 eps of
// the best are compared by the sign of
//
//   2 (s_j - s_k) = sum over d of 2 x_d c_jd - c_jd^2 - 2 x_d c_kd + c_kd^2
//
// computed without rounding. Every product of two float32 is an integer of 48 bits times a power of two
// between 2^-298 and 2^208, so the sum fits into a fixed-point number of 18 words of 32 bits (Kulisch,
// Computer Arithmetic and Validity, 2008). The lowest index wins a true tie. A warp decides one row; such
// rows are few.
#pragma once

#include <instructions.cuh>
#include <warp.cuh>

namespace {

constexpr int kWords = 20;  // 18, and two for carries and the sign
constexpr double kUnitRoundoff = 1.1102230246251565e-16;

// An exact sum of products of float32. Each word of 32 bits has 64 bits, so carries can wait. Lowest first.
struct ExactSum {
  int64 words[kWords] = {};

  // Add a * b, or 2 a * b if `twice`, negated if `negative`. a and b must be finite.
  __device__ void add(float a, float b, bool twice, bool negative) {
    int exponent_a, exponent_b;
    const uint64 product = significand(a, exponent_a) * significand(b, exponent_b);
    // The lowest bit stands for 2^-298, the product of the two smallest denormals.
    const int position = exponent_a + exponent_b - 2 + (twice ? 1 : 0);
    const int word = position / 32, shift = position % 32;
    const bool minus = ((__float_as_uint(a) ^ __float_as_uint(b)) >> 31 != 0) != negative;
    const uint64 low = product << shift, high = shift == 0 ? 0 : product >> (64 - shift);
    add_word(word, low & 0xFFFFFFFFULL, minus);
    add_word(word + 1, low >> 32, minus);
    add_word(word + 2, high, minus);
  }

  // Return the sign of the sum over all threads of the warp.
  __device__ int sign_over_warp() {
    int64 carry = 0;
    bool any = false;
    for (int i = 0; i < kWords; ++i) {
      const int64 word = sum_over(kWarp, words[i]) + carry;
      carry = word >> 32;
      any = any || (word & 0xFFFFFFFFLL) != 0;
    }
    return carry < 0 ? -1 : (any || carry > 0 ? 1 : 0);
  }

 private:
  static __device__ uint64 significand(float value, int& exponent) {
    const unsigned bits = __float_as_uint(value), field = bits >> 23 & 0xFFU;
    exponent = field == 0 ? 1 : static_cast<int>(field);
    return (bits & 0x7FFFFFU) | (field == 0 ? 0U : 0x800000U);
  }

  __device__ void add_word(int i, uint64 value, bool minus) {
    words[i] += minus ? -static_cast<int64>(value) : static_cast<int64>(value);
  }
};

template <class T>
struct Row {
  const T* x;
  const float* centers;
  const double* half_norms;
  int d;

  __device__ double score(int k) const {
    double sum = 0.0;
    for (int j = lane_of_warp(); j < d; j += kWarp) {
      sum = fma(wide(widened(x[j])), wide(centers[static_cast<int64>(k) * d + j]), sum);
    }
    return sum_over(kWarp, sum) - half_norms[k];
  }

  __device__ double norm() const {
    double sum = 0.0;
    for (int j = lane_of_warp(); j < d; j += kWarp) {
      const double value = wide(widened(x[j]));
      sum = fma(value, value, sum);
    }
    return sqrt(sum_over(kWarp, sum));
  }

  // Return whether two centres are the same point, the most frequent tie.
  __device__ bool is_same(int j, int k) const {
    bool differs = false;
    for (int i = lane_of_warp(); i < d; i += kWarp) {
      differs = differs || __float_as_uint(centers[static_cast<int64>(j) * d + i]) !=
                               __float_as_uint(centers[static_cast<int64>(k) * d + i]);
    }
    return __ballot_sync(kWholeWarp, differs) == 0;
  }

  // Return whether centre j is nearer than centre k, exactly.
  __device__ bool is_nearer(int j, int k) const {
    if (is_same(j, k)) return false;
    ExactSum sum;
    for (int i = lane_of_warp(); i < d; i += kWarp) {
      const float value = widened(x[i]);
      const float c_j = centers[static_cast<int64>(j) * d + i], c_k = centers[static_cast<int64>(k) * d + i];
      sum.add(value, c_j, true, false);
      sum.add(c_j, c_j, false, true);
      sum.add(value, c_k, true, true);
      sum.add(c_k, c_k, false, false);
    }
    return sum.sign_over_warp() > 0;
  }
};

// The candidates of a row, in ascending order.
struct Candidates {
  const uint64* bits;
  int words;
  int word = 0;
  uint64 left = 0;

  __device__ Candidates(const uint64* bits_, int words_) : bits(bits_), words(words_), left(bits_[0]) {}

  // Return the next candidate, or -1.
  __device__ int next() {
    while (left == 0) {
      if (++word >= words) return -1;
      left = bits[word];
    }
    const int bit = __ffsll(static_cast<int64>(left)) - 1;
    left &= left - 1;
    return word * 64 + bit;
  }
};

template <class T>
__device__ int nearest(const Row<T>& row, const uint64* bits, int words, double max_norm) {
  const double m_u = (row.d + 4) * kUnitRoundoff;
  const double eps = m_u / (1 - m_u) * (row.norm() * max_norm + 0.5 * max_norm * max_norm);
  double best = 0.0, second = 0.0;
  int winner = -1, n = 0;
  Candidates all(bits, words);
  for (int k = all.next(); k >= 0; k = all.next(), ++n) {
    const double score = row.score(k);
    if (winner < 0 || score > best) {
      second = best;
      best = score;
      winner = k;
      if (n == 0) second = -__longlong_as_double(0x7FF0000000000000LL);
    } else if (score > second) {
      second = score;
    }
  }
  if (second < best - 2 * eps) return winner;
  int nearest = -1;
  Candidates again(bits, words);
  for (int k = again.next(); k >= 0; k = again.next()) {
    if (row.score(k) < best - 2 * eps) continue;
    if (nearest < 0 || row.is_nearer(k, nearest)) nearest = k;
  }
  return nearest;
}

// Unrounded centres: values (k, d), half_norms (k) = |c_k|^2 / 2, and the largest |c_k|.
struct ExactCenters {
  const float* values;
  const double* half_norms;
  double max_norm;
};

// A warp decides the undecided rows among [first, first + 32) of x (n, d).
// labels (n) and candidates (n, words) come from assign.cuh.
template <class T>
__device__ void decide_rows(const T* x, int64 n, int d, const ExactCenters& c, int64 first,
                            const uint64* candidates, int words, int* labels) {
  const bool open = first + lane_of_warp() < n && labels[first + lane_of_warp()] < 0;
  for (unsigned rows = __ballot_sync(kWholeWarp, open); rows != 0; rows &= rows - 1) {
    const int64 at = first + __ffs(static_cast<int>(rows)) - 1;
    const int label =
        nearest(Row<T>{x + at * d, c.values, c.half_norms, d}, candidates + at * words, words, c.max_norm);
    if (lane_of_warp() == 0) labels[at] = label;
  }
}

}  // namespace
