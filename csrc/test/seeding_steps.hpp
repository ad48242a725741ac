// Steps of seeding, compared with plain sums.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/seeding.hpp"
#include "core/size.hpp"

namespace medvlad::test {

// Whether all distances and sums of a few steps of seeding among rows x (., d) of integers are exact.
inline bool steps_are_right(const std::vector<float>& x, std::int64_t d, int n_threads) {
  const auto n = static_cast<std::int64_t>(x.size()) / d;
  bool right = true;
  const auto expected = [&](std::int64_t a, std::int64_t b) {
    double sum = 0.0;
    for (std::int64_t j = 0; j < d; ++j) {
      const double difference = double{x[size(a * d + j)]} - double{x[size(b * d + j)]};
      sum += difference * difference;
    }
    return sum;
  };
  // Among all rows, and among every other row in reverse.
  std::vector<std::int64_t> reversed;
  for (std::int64_t row = n - 1; row >= 0; row -= 2) reversed.push_back(row);
  for (const bool all : {true, false}) {
    const medvlad::RowsOf from{x.data(), all ? nullptr : reversed.data(),
                               all ? n : static_cast<std::int64_t>(reversed.size()), d};
    medvlad::Seeding seeding(from, n_threads);
    const auto row_of = [&](std::int64_t i) { return all ? i : reversed[size(i)]; };
    const auto m = size(from.n);
    std::vector<double> closest(m, INFINITY), distances(3 * m);
    for (std::int64_t round = 0; round < 6; ++round) {
      const std::int64_t candidates[3] = {round, from.n / 2 - round, from.n - 1 - round};
      double potentials[3];
      seeding.distances(candidates, 3, closest.data(), distances.data(), potentials);
      std::size_t best = 0;
      for (std::size_t t = 0; t < 3; ++t) {
        double potential = 0.0;
        for (std::int64_t i = 0; i < from.n; ++i) {
          const double distance = std::min(closest[size(i)], expected(row_of(i), row_of(candidates[t])));
          right = right && distances[t * m + size(i)] == distance;
          potential += distance;
        }
        right = right && potentials[t] == potential;
        if (potentials[t] < potentials[best]) best = t;
      }
      right = right && size(seeding.add_best(candidates, 3, closest.data())) == best;
      for (std::size_t i = 0; i < m; ++i) right = right && closest[i] == distances[best * m + i];
    }
  }
  return right;
}

}  // namespace medvlad::test
