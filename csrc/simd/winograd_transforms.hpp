// Winograd transforms of one 6 x 6 patch: B^T d B of inputs and A^T m A of products.
//
// The matrices are in core/convnet.hpp. `Vector` comes from one of vector_*.hpp, which must be included
// before this file. Each number stands for Vector::kWidth channels.
#pragma once

#include <cstdint>

#include "core/conv_kernels.hpp"
#include "core/winograd_points.hpp"

#if defined(__GNUC__)
#define MEDVLAD_UNROLL _Pragma("GCC unroll 16")
#else
#define MEDVLAD_UNROLL
#endif

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

using Floats = Vector::Floats;

// Iterates over tiles: image, row and column of the current one.
struct TilePlace {
  TilePlace(const Tiling& tiling, std::int64_t t)
      : rows(tiling.rows()), columns(tiling.columns()), image(t / (rows * columns)) {
    row = t / columns % rows;
    column = t % columns;
  }
  void next() {
    if (++column < columns) return;
    column = 0;
    if (++row < rows) return;
    row = 0;
    ++image;
  }
  std::int64_t rows, columns, image, row, column;
};

inline Floats constant(double value) { return Vector::broadcast(static_cast<float>(value)); }

// v = B^T d for six numbers.
inline void transform(const Floats (&d)[6], Floats (&v)[6]) {
  constexpr double a = kPointA, b = kPointB;
  const auto sum = constant(a * a + b * b), product = constant(a * a * b * b);
  const auto aa = constant(a * a), bb = constant(b * b);
  v[0] = Vector::multiply_subtract(sum, d[2], Vector::multiply_add(product, d[0], d[4]));
  v[5] = Vector::multiply_subtract(sum, d[3], Vector::multiply_add(product, d[1], d[5]));
  const auto even_a = Vector::multiply_subtract(bb, d[2], d[4]);
  const auto odd_a = Vector::multiply_subtract(bb, d[1], d[3]);
  const auto even_b = Vector::multiply_subtract(aa, d[2], d[4]);
  const auto odd_b = Vector::multiply_subtract(aa, d[1], d[3]);
  v[1] = Vector::multiply_add(constant(a), odd_a, even_a);
  v[2] = Vector::multiply_subtract(constant(a), odd_a, even_a);
  v[3] = Vector::multiply_add(constant(b), odd_b, even_b);
  v[4] = Vector::multiply_subtract(constant(b), odd_b, even_b);
}

template <class Load>
inline void transform_patch(const Load& load, float* out, std::int64_t point) {
  Floats half[6][6];
  MEDVLAD_UNROLL
  for (int column = 0; column < 6; ++column) {
    const Floats d[6] = {load(0, column), load(1, column), load(2, column),
                         load(3, column), load(4, column), load(5, column)};
    Floats v[6];
    transform(d, v);
    MEDVLAD_UNROLL
    for (int row = 0; row < 6; ++row) half[row][column] = v[row];
  }
  MEDVLAD_UNROLL
  for (int row = 0; row < 6; ++row) {
    Floats v[6];
    transform(half[row], v);
    MEDVLAD_UNROLL
    for (int column = 0; column < 6; ++column) Vector::store(out + (6 * row + column) * point, v[column]);
  }
}

// y = A^T m for six numbers.
inline void untransform(const Floats (&m)[6], Floats (&y)[4]) {
  constexpr double a = kPointA, b = kPointB;
  const auto even_a = Vector::add(m[1], m[2]), odd_a = Vector::subtract(m[1], m[2]);
  const auto even_b = Vector::add(m[3], m[4]), odd_b = Vector::subtract(m[3], m[4]);
  y[0] = Vector::add(m[0], Vector::add(even_a, even_b));
  y[1] = Vector::multiply_add(constant(a), odd_a, Vector::multiply(constant(b), odd_b));
  y[2] = Vector::multiply_add(constant(a * a), even_a, Vector::multiply(constant(b * b), even_b));
  y[3] = Vector::multiply_add(constant(a * a * a), odd_a,
                              Vector::multiply_add(constant(b * b * b), odd_b, m[5]));
}

inline void untransform(const float* in, std::int64_t point, Floats (&sums)[4][4]) {
  Floats half[4][6];
  MEDVLAD_UNROLL
  for (int column = 0; column < 6; ++column) {
    const float* m = in + column * point;
    const Floats all[6] = {Vector::load(m),
                           Vector::load(m + 6 * point),
                           Vector::load(m + 12 * point),
                           Vector::load(m + 18 * point),
                           Vector::load(m + 24 * point),
                           Vector::load(m + 30 * point)};
    Floats y[4];
    untransform(all, y);
    MEDVLAD_UNROLL
    for (int row = 0; row < 4; ++row) half[row][column] = y[row];
  }
  MEDVLAD_UNROLL
  for (int row = 0; row < 4; ++row) untransform(half[row], sums[row]);
}

inline Floats largest(const Floats (&sums)[4][4], int row, int column) {
  return Vector::larger_or_nan(Vector::larger_or_nan(sums[row][column], sums[row][column + 1]),
                               Vector::larger_or_nan(sums[row + 1][column], sums[row + 1][column + 1]));
}

}  // namespace

}  // namespace medvlad
