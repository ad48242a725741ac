// Conversion of fuzzing input (bytes) to choices and numbers.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>

namespace medvlad::test {

// Reads the input. After its end, it returns random numbers whose seed depends on the whole input.
class Source {
 public:
  Source(const std::uint8_t* data, std::size_t n) : at_(data), end_(data + n), random_(hash(data, n)) {}

  std::uint32_t bits(int n_bytes) {
    if (end_ - at_ < n_bytes) {
      at_ = end_;
      return static_cast<std::uint32_t>(random_()) >> (8 * (4 - n_bytes));
    }
    std::uint32_t value = 0;
    for (int i = 0; i < n_bytes; ++i) value = value << 8 | *at_++;
    return value;
  }

  std::int64_t below(std::int64_t n) { return bits(2) % n; }

  template <std::size_t N>
  std::int64_t one_of(const std::int64_t (&choices)[N]) {
    return choices[bits(1) % N];
  }

  // A number of the given kind, 0 to 8. Kind 9: a random kind.
  float number(std::int64_t kind) {
    if (kind == 9) kind = below(9);
    const std::uint32_t raw = bits(kind < 3 ? 4 : 1);
    const float sign = raw % 2 == 0 ? 1.0F : -1.0F;
    switch (kind) {
      case 0:
        return finite(raw);
      case 1:  // of the size of features
        return static_cast<float>(static_cast<std::int32_t>(raw)) * 0x1p-31F;
      case 2:  // near 1, so that many scores nearly tie
        return finite(0x3f800000U | (raw & 0xffU));
      case 3:
        return static_cast<float>(static_cast<int>(raw % 5) - 2);
      case 4:
        return finite((raw & 0x80000000U) | (raw & 0x7fU)) * sign;
      case 5:
        return sign * FLT_MAX / static_cast<float>(1U << raw % 4);
      case 6:
        return sign * std::ldexp(1.0F, static_cast<int>(raw) - 140);
      case 7:
        return sign * 0.0F;
      default:  // as after a ReLU
        return raw < 160 ? 0.0F : static_cast<float>(raw) * 0x1p-6F;
    }
  }

 private:
  static std::uint32_t hash(const std::uint8_t* data, std::size_t n) {
    std::uint32_t seed = 2166136261U;
    for (std::size_t i = 0; i < n; ++i) seed = (seed ^ data[i]) * 16777619U;
    return seed;
  }

  static float finite(std::uint32_t raw) {
    if ((raw & 0x7f800000U) == 0x7f800000U) raw ^= 0x40000000U;
    float value;
    std::memcpy(&value, &raw, sizeof value);
    return value;
  }

  const std::uint8_t *at_, *end_;
  std::mt19937 random_;
};

}  // namespace medvlad::test
