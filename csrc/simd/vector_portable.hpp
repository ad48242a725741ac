// Vector operations for every processor and compiler, for convolutions: four lanes, a tile of 4 rows x 8.
#pragma once

#include <cstring>

namespace medvlad {

namespace {

struct Vector {
  static constexpr int kWidth = 4;
  static constexpr int kTileRows = 4;

#if defined(__GNUC__)
  using Floats __attribute__((vector_size(16))) = float;
#else
  struct Floats {
    float lanes[4];
    float& operator[](int i) { return lanes[i]; }
    float operator[](int i) const { return lanes[i]; }
    template <class Operation>
    static Floats each(const Operation& operation) {
      return {{operation(0), operation(1), operation(2), operation(3)}};
    }
    friend Floats operator+(Floats a, Floats b) {
      return each([&](int i) { return a[i] + b[i]; });
    }
    friend Floats operator-(Floats a, Floats b) {
      return each([&](int i) { return a[i] - b[i]; });
    }
    friend Floats operator*(Floats a, Floats b) {
      return each([&](int i) { return a[i] * b[i]; });
    }
  };
#endif

  static Floats load(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
  static Floats broadcast(float value) { return Floats{value, value, value, value}; }
  static Floats zero() { return broadcast(0.0F); }
  static Floats add(Floats a, Floats b) { return a + b; }
  static Floats subtract(Floats a, Floats b) { return a - b; }
  static Floats multiply(Floats a, Floats b) { return a * b; }
  // Both are rounded twice: after the product and after the sum.
  static Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
  static Floats multiply_subtract(Floats a, Floats b, Floats c) { return c - a * b; }
  // The larger number. If either is NaN: b.
  static Floats larger(Floats a, Floats b) {
#if defined(__GNUC__)
    return a > b ? a : b;
#else
    return Floats::each([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
#endif
  }
  // The larger number. If either is NaN: NaN.
  static Floats larger_or_nan(Floats a, Floats b) {
#if defined(__GNUC__)
    return a != a ? a : larger(a, b);
#else
    return Floats::each([&](int i) { return a[i] != a[i] || a[i] > b[i] ? a[i] : b[i]; });
#endif
  }
  static void prefetch(const float* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p, 0, 2);
#else
    static_cast<void>(p);
#endif
  }
  static void prefetch_to_write(float* p) { prefetch(p); }
};

}  // namespace

}  // namespace medvlad
