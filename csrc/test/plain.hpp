// What the test programs share: a plain matrix product in place of BLAS, and the end at a wrong result.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace medvlad::test {

// c (m x n) = a (m x d) * b (n x d)^T + beta * c, as core/sgemm.hpp defines it.
inline void sgemm(std::int64_t m, std::int64_t n, std::int64_t d, const float* a, const float* b, float beta,
                  float* c) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      float sum = beta * c[i * n + j];
      for (std::int64_t l = 0; l < d; ++l) sum += a[i * d + l] * b[j * d + l];
      c[i * n + j] = sum;
    }
  }
}

// End the program with status 1 unless the result is right.
inline void check(bool right, const std::string& what) {
  if (right) return;
  static_cast<void>(std::fprintf(stderr, "wrong: %s\n", what.c_str()));
  std::exit(1);  // NOLINT(concurrency-mt-unsafe): no other thread is left
}

}  // namespace medvlad::test
