#include "cells.hpp"

#include <cassert>
#include <cmath>

#include "lanes64.hpp"
#include "size.hpp"

namespace medvlad {

namespace {

// v = from + the N rows at `rows`, added in that order. If `from` is null, the sum begins at +0.0 as in the
// reference.
template <std::size_t N>
void add_rows(const float* const (&rows)[N], const double* from, std::int64_t d, double* v) {
  std::int64_t j = 0;
  for (; j + kDoubles <= d; j += kDoubles) {
    Lanes64 total = (from == nullptr ? broadcast(0.0) : load(from + j)) + widen(rows[0] + j);
    for (std::size_t i = 1; i < N; ++i) total += widen(rows[i] + j);
    store(total, v + j);
  }
  for (; j < d; ++j) {
    double total = (from == nullptr ? 0.0 : from[j]) + static_cast<double>(rows[0][j]);
    for (std::size_t i = 1; i < N; ++i) total += double{rows[i][j]};
    v[j] = total;
  }
}

// v = from + the N rows - n * center. Returns |v|^2.
template <std::size_t N>
double finish(const float* const (&rows)[N], const double* from, double n, const float* center,
              std::int64_t d, double* v) {
  const Lanes64 minus_n = broadcast(-n);
  Lanes64 squares = broadcast(0.0);
  std::int64_t j = 0;
  for (; j + kDoubles <= d; j += kDoubles) {
    Lanes64 total = (from == nullptr ? broadcast(0.0) : load(from + j)) + widen(rows[0] + j);
    for (std::size_t i = 1; i < N; ++i) total += widen(rows[i] + j);
    total = exact_multiply_add(minus_n, widen(center + j), total);
    squares += total * total;
    store(total, v + j);
  }
  double squared = sum(squares);
  for (; j < d; ++j) {
    double total = (from == nullptr ? 0.0 : from[j]) + static_cast<double>(rows[0][j]);
    for (std::size_t i = 1; i < N; ++i) total += double{rows[i][j]};
    v[j] = total - n * double{center[j]};
    squared += v[j] * v[j];
  }
  return squared;
}

// v = sum of w s (x - center) over the rows of a cell. Every term is rounded as in the reference. Returns
// |v|^2.
double weighted_residual(const Cells& cells, std::int64_t i, const float* x, const CenterSet& set,
                         double* v) {
  const std::int64_t d = set.d, count = cells.count(i);
  const float* center = set.centers + cells.index[size(i)] * d;
  const Lanes64 minus_one = broadcast(-1.0);
  for (std::int64_t at = 0; at < count; ++at) {
    const float* row = x + cells.rows(i)[at] * d;
    const double factor = cells.factors(i)[at];
    const Lanes64 factors = broadcast(factor);
    std::int64_t j = 0;
    for (; j + kDoubles <= d; j += kDoubles) {
      const Lanes64 from = at == 0 ? broadcast(0.0) : load(v + j);
      store(from + factors * exact_multiply_add(minus_one, widen(center + j), widen(row + j)), v + j);
    }
    for (; j < d; ++j) v[j] = (at == 0 ? 0.0 : v[j]) + factor * (double{row[j]} - double{center[j]});
  }
  return squared_norm(v, d);
}

}  // namespace

void Cells::sort(const std::int32_t* labels, std::int64_t n, std::int64_t k) {
  sort(labels, nullptr, nullptr, n, 1, k);
}

void Cells::sort(const std::int32_t* labels, const double* weights, const double* scales, std::int64_t n,
                 std::int64_t per_row, std::int64_t k) {
  // A counting sort keeps the order of rows within a cell.
  weighted_ = weights != nullptr;
  const std::int64_t n_entries = n * per_row;
  const auto is_member = [&](std::int64_t entry) { return weights == nullptr || weights[entry] != 0.0; };
  next_.assign(size(k), 0);
  for (std::int64_t entry = 0; entry < n_entries; ++entry) {
    if (is_member(entry)) ++next_[size(labels[entry])];
  }
  index.clear();
  begin_.assign(1, 0);
  for (std::int64_t cell = 0; cell < k; ++cell) {
    const std::int64_t count = next_[size(cell)];
    if (count == 0) continue;
    index.push_back(static_cast<std::int32_t>(cell));
    next_[size(cell)] = begin_.back();
    begin_.push_back(begin_.back() + count);
  }
  rows_.resize(size(begin_.back()));
  factors_.resize(weighted_ ? rows_.size() : 0);
  weights_.resize(scales != nullptr ? rows_.size() : 0);
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t entry = row * per_row; entry < (row + 1) * per_row; ++entry) {
      if (!is_member(entry)) continue;
      const std::int64_t at = next_[size(labels[entry])]++;
      rows_[size(at)] = row;
      if (weights == nullptr) continue;
      factors_[size(at)] = scales == nullptr ? weights[entry] : weights[entry] * scales[entry];
      if (scales != nullptr) weights_[size(at)] = weights[entry];
    }
  }
}

double Cells::mass(std::int64_t i) const {
  if (!weighted_) return static_cast<double>(count(i));
  const double* weights = (weights_.empty() ? factors_ : weights_).data() + begin(i);
  double total = 0.0;
  for (std::int64_t at = 0; at < count(i); ++at) total += weights[at];
  return total;
}

double Cells::reach(std::int64_t i) const {
  if (!weighted_) return static_cast<double>(count(i));
  double total = 0.0;
  for (std::int64_t at = 0; at < count(i); ++at) total += std::fabs(factors(i)[at]);
  return total;
}

double squared_norm(const double* v, std::int64_t d) {
  Lanes64 lanes = broadcast(0.0);
  std::int64_t j = 0;
  for (; j + kDoubles <= d; j += kDoubles) lanes += load(v + j) * load(v + j);
  double total = sum(lanes);
  for (; j < d; ++j) total += v[j] * v[j];
  return total;
}

double residual(const Cells& cells, std::int64_t i, const float* x, const CenterSet& set, double* v) {
  assert(v != nullptr);
  if (cells.weighted()) return weighted_residual(cells, i, x, set, v);
  const std::int64_t d = set.d, count = cells.count(i);
  const std::int64_t* rows = cells.rows(i);
  const auto row = [&](std::int64_t at) { return x + rows[at] * d; };
  // Add four rows at a time, so that the sum is loaded and stored once for four. `finish` adds the last one
  // to four rows and subtracts the centre.
  std::int64_t at = 0;
  for (; count - at > 4; at += 4) {
    add_rows<4>({row(at), row(at + 1), row(at + 2), row(at + 3)}, at == 0 ? nullptr : v, d, v);
  }
  const double* from = at == 0 ? nullptr : v;
  const double n = static_cast<double>(count);
  const float* center = set.centers + cells.index[size(i)] * d;
  switch (count - at) {
    case 1:
      return finish<1>({row(at)}, from, n, center, d, v);
    case 2:
      return finish<2>({row(at), row(at + 1)}, from, n, center, d, v);
    case 3:
      return finish<3>({row(at), row(at + 1), row(at + 2)}, from, n, center, d, v);
    default:
      return finish<4>({row(at), row(at + 1), row(at + 2), row(at + 3)}, from, n, center, d, v);
  }
}

}  // namespace medvlad
