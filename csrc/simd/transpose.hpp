// Transposition of squares of numbers of 32 bits, which are only moved.
//
// `Vector` comes from one of vector_*.hpp, which must be included before this file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

// to[j * to_step + i] = from[i * from_step + j] for i, j < Vector::kWidth. Each step interleaves the first
// half of the vectors with the second half. log2(kWidth) steps transpose the square.
inline void transpose_square(const float* from, std::int64_t from_step, float* to, std::int64_t to_step) {
  constexpr int kWidth = Vector::kWidth;
  Vector::Floats v[std::size_t{kWidth}], next[std::size_t{kWidth}];
  for (int i = 0; i < kWidth; ++i) v[i] = Vector::load(from + i * from_step);
  for (int step = 1; step < kWidth; step *= 2) {
    for (int i = 0; i < kWidth / 2; ++i)
      Vector::interleave(v[i], v[i + kWidth / 2], next[2 * i], next[2 * i + 1]);
    for (int i = 0; i < kWidth; ++i) v[i] = next[i];
  }
  for (int i = 0; i < kWidth; ++i) Vector::store(to + i * to_step, v[i]);
}

// The same for i < n and j < d.
inline void transpose(const float* from, std::int64_t n, std::int64_t d, std::int64_t from_step, float* to,
                      std::int64_t to_step) {
  constexpr std::int64_t kWidth = Vector::kWidth;
  // Bits are copied, because a number may be a pattern of bits that is no number.
  const auto copy = [&](std::int64_t i, std::int64_t j) {
    std::memcpy(to + j * to_step + i, from + i * from_step + j, sizeof(float));
  };
  std::int64_t whole_n = n - n % kWidth, whole_d = d - d % kWidth;
  for (std::int64_t j = 0; j < whole_d; j += kWidth) {
    for (std::int64_t i = 0; i < whole_n; i += kWidth) {
      transpose_square(from + i * from_step + j, from_step, to + j * to_step + i, to_step);
    }
    for (std::int64_t i = whole_n; i < n; ++i) {
      for (std::int64_t k = j; k < j + kWidth; ++k) copy(i, k);
    }
  }
  for (std::int64_t j = whole_d; j < d; ++j) {
    for (std::int64_t i = 0; i < n; ++i) copy(i, j);
  }
}

}  // namespace

}  // namespace medvlad
