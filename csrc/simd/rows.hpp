// What the scorers ask of a row of descriptors: its norm and its zeros.
//
// `Vector` comes from one of vector_*.hpp, which must be included before this file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr std::int64_t kSampledRows = 8;  // about so many rows of a block give the share

// A sum of squares in float32, as NormBound expects it.
class SquareSum {
  static constexpr int kSums = 4;

 public:
  static constexpr std::int64_t kStep = kSums * Vector::kWidth;

  SquareSum() {
    for (auto& sum : sums_) sum = Vector::zero();
  }
  // Add the squares of kStep numbers.
  void add_step(const float* x) {
    for (int i = 0; i < kSums; ++i) {
      const auto values = Vector::load(x + i * Vector::kWidth);
      sums_[i] = Vector::multiply_add(values, values, sums_[i]);
    }
  }
  void add(float value) { rest_ += double{value} * double{value}; }
  double total() const {
    const auto total = Vector::add(Vector::add(sums_[0], sums_[1]), Vector::add(sums_[2], sums_[3]));
    return rest_ + double{Vector::sum(total)};
  }

 private:
  Vector::Floats sums_[std::size_t{kSums}];
  double rest_ = 0.0;
};

// |x|^2
inline double squared_norm(const float* x, std::int64_t d) {
  SquareSum squares;
  std::int64_t j = 0;
  for (; j + SquareSum::kStep <= d; j += SquareSum::kStep) squares.add_step(x + j);
  for (; j < d; ++j) squares.add(x[j]);
  return squares.total();
}

// The share of numbers of n rows that are not zero, estimated from some of the rows.
inline double nonzero_share(const float* x, std::int64_t n, std::int64_t d) {
  const std::int64_t step = std::max<std::int64_t>(1, n / kSampledRows);
  std::int64_t looked_at = 0, found = 0;
  for (std::int64_t row = 0; row < n; row += step) {
    const float* values = x + row * d;
    std::int64_t j = 0;
    for (; j + Vector::kWidth <= d; j += Vector::kWidth) found += Vector::count_nonzero(values + j);
    looked_at += j;
  }
  return looked_at == 0 ? 1.0 : static_cast<double>(found) / static_cast<double>(looked_at);
}

// Write the positions of the non-zero numbers of x[0, d), ascending, return their number, and set `squared`
// to |x|^2. `positions` has room for d + kFound, and d is at most 2^16.
inline std::int64_t list_nonzeros(const float* x, std::int64_t d, std::uint16_t* positions, double& squared) {
  static_assert(SquareSum::kStep % Vector::kFound == 0);
  SquareSum squares;
  std::int64_t n = 0, j = 0;
  for (; j + SquareSum::kStep <= d; j += SquareSum::kStep) {
    squares.add_step(x + j);
    for (std::int64_t i = j; i < j + SquareSum::kStep; i += Vector::kFound) {
      n += Vector::nonzeros(x + i, static_cast<std::uint16_t>(i), positions + n);
    }
  }
  const std::int64_t squared_to = j;
  for (; j + Vector::kFound <= d; j += Vector::kFound) {
    n += Vector::nonzeros(x + j, static_cast<std::uint16_t>(j), positions + n);
  }
  for (std::int64_t i = squared_to; i < j; ++i) squares.add(x[i]);
  for (; j < d; ++j) {
    squares.add(x[j]);
    positions[n] = static_cast<std::uint16_t>(j);
    n += static_cast<std::int64_t>(x[j] != 0.0F);
  }
  squared = squares.total();
  return n;
}

}  // namespace

}  // namespace medvlad
