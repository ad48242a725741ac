// The Gram matrix of tiles, compared with plain loops on integers, for the test programs.
#pragma once

#include <cstdint>
#include <vector>

#include "core/gram.hpp"

namespace medvlad::test {

// Whether the kernel of this level adds the exact products to the upper triangle, and to nothing else. True
// if the level has no kernel. Integers of 8 bits are exact in every step.
inline bool is_gram_right(std::int64_t n, std::int64_t d, int n_threads) {
  const GramKernel kernel = gram_kernel();
  if (kernel == nullptr) return true;
  const auto rows = static_cast<std::size_t>(n), columns = static_cast<std::size_t>(d);
  std::vector<float> x(rows * columns);
  std::vector<double> shift(columns), along(rows), direction(columns), gram(rows * rows, 0.5);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7919 % 199) - 99.0F;
  for (std::size_t j = 0; j < columns; ++j) {
    shift[j] = static_cast<double>(j % 5);
    direction[j] = static_cast<double>(j % 3);
  }
  for (std::size_t i = 0; i < rows; ++i) along[i] = static_cast<double>(i % 4);
  kernel({x.data(), false, n, d, d, 1, shift.data(), direction.data(), along.data()}, n_threads, gram.data());
  const auto z = [&](std::size_t i, std::size_t j) {
    return static_cast<double>(x[i * columns + j]) - shift[j] - along[i] * direction[j];
  };
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < rows; ++j) {
      double sum = 0.5;
      for (std::size_t k = 0; j >= i && k < columns; ++k) sum += z(i, k) * z(j, k);
      if (gram[i * rows + j] != sum) return false;
    }
  }
  return true;
}

}  // namespace medvlad::test
