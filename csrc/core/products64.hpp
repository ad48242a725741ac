// Exact products of rows with the candidates of a step of k-means++, in float64 and in the order of
// lanes64.hpp: for all pairs of a block of rows and a group of candidates, and for single pairs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "aligned.hpp"
#include "lanes64.hpp"
#include "size.hpp"

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

// Numbers of candidates and rows that are multiplied with each other at a time. Their sums fill the
// registers, which hides the latency of the additions. If there is room, a candidate is loaded once for two
// rows.
constexpr int kGroup = kParts == 1 ? 8 : 4;
constexpr int kRows = kParts == 1 ? 2 : 1;
constexpr int kPairs = kParts == 1 ? 8 : 4;  // single pairs that are multiplied at a time

// Prefetch the cache line at `address`, which must be valid.
inline void prefetch(const float* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address, 0, 3);
#else
  static_cast<void>(address);
#endif
}

// A row and a candidate. The numbers of the candidate are eight by eight, each eight kGroup * kDoubles after
// the eight before.
struct Pair {
  const float* x;
  const double* c;
};

// kGroup candidates in float64. Eight numbers of one candidate follow eight of another, so that one pointer
// is enough to read them all.
class Group {
 public:
  // Take up to kGroup of the n candidates, from `first` on. The last one fills the group.
  Group(const float* const* candidates, std::int64_t n, std::int64_t d, std::int64_t first)
      : d_(d), values_(size(kGroup * d)) {
    for (int t = 0; t < kGroup; ++t) {
      const float* row = candidates[std::min(first + t, n - 1)];
      for (std::int64_t j = 0; j < d_; ++j) values_.data()[index(j, t)] = double{row[j]};
    }
  }

  const double* candidate(std::int64_t t) const { return values_.data() + t * kDoubles; }

  // result[r][t] = x_r.c_t. The rows at `ahead` are prefetched line by line, because prefetching all at once
  // would delay the loads of these rows.
  void dots(const float* const (&x)[kRows], const float* const (&ahead)[kRows],
            double (&result)[kRows][kGroup]) const {
    const double* c = values_.data();
    Lanes64 lanes[kRows][kGroup];
    for (auto& row : lanes) {
      for (Lanes64& one : row) one = broadcast(0.0);
    }
    std::int64_t j = 0;
    for (; j + kDoubles <= d_; j += kDoubles, c += kGroup * kDoubles) {
      Lanes64 values[kRows];
      for (int r = 0; r < kRows; ++r) {
        prefetch(ahead[r] + j);
        values[r] = widen(x[r] + j);
      }
      for (int t = 0; t < kGroup; ++t) {
        const Lanes64 candidate = load(c + t * kDoubles);
        for (int r = 0; r < kRows; ++r) lanes[r][t] = exact_multiply_add(values[r], candidate, lanes[r][t]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kGroup; ++t) result[r][t] = rest(x[r], t, sum(lanes[r][t]));
    }
  }

  // `total` and the products of the last d mod 8 numbers.
  double rest(const float* x, std::int64_t t, double total) const {
    for (std::int64_t j = d_ - d_ % kDoubles; j < d_; ++j)
      total += double{x[j]} * values_.data()[index(j, t)];
    return total;
  }

 private:
  std::int64_t index(std::int64_t j, std::int64_t t) const {
    const std::int64_t whole = d_ - d_ % kDoubles;
    if (j >= whole) return whole * kGroup + (j - whole) * kGroup + t;
    return j / kDoubles * kDoubles * kGroup + t * kDoubles + j % kDoubles;
  }

  std::int64_t d_;
  AlignedBuffer<double> values_;
};

// result[i] = x.c for each pair, without the last d mod 8 numbers. `ahead` are rows of later pairs.
inline void pair_dots(const Pair (&pairs)[kPairs], const float* const (&ahead)[kPairs], std::int64_t d,
                      double (&result)[kPairs]) {
  Lanes64 lanes[kPairs];
  for (Lanes64& one : lanes) one = broadcast(0.0);
  for (std::int64_t j = 0; j + kDoubles <= d; j += kDoubles) {
    for (int i = 0; i < kPairs; ++i) {
      prefetch(ahead[i] + j);
      lanes[i] = exact_multiply_add(widen(pairs[i].x + j), load(pairs[i].c + j * kGroup), lanes[i]);
    }
  }
  for (int i = 0; i < kPairs; ++i) result[i] = sum(lanes[i]);
}

}  // namespace

}  // namespace medvlad
