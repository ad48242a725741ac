// Exact sums of products of float32 numbers, in fixed point, for the test programs.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace medvlad::test {

// A sum of products of two float32 numbers, without rounding: integer limbs of 32 bits.
class Exact {
 public:
  void add(float a, float b, int factor) {
    if (a == 0.0F || b == 0.0F) return;
    int ea = 0, eb = 0;
    const auto ma = static_cast<std::int64_t>(std::ldexp(std::frexp(a, &ea), 24));
    const auto mb = static_cast<std::int64_t>(std::ldexp(std::frexp(b, &eb), 24));
    const int at = ea + eb - 48 + kLowest;
    std::int64_t rest = ma * mb * factor;  // at most 2^49, added to three limbs
    const bool negative = rest < 0;
    auto magnitude = static_cast<std::uint64_t>(negative ? -rest : rest);
    const auto add_part = [&](int limb, std::uint64_t part) {
      limbs_[static_cast<std::size_t>(limb)] +=
          negative ? -static_cast<std::int64_t>(part) : static_cast<std::int64_t>(part);
    };
    const std::uint64_t low = (magnitude & 0xffffffffU) << at % 32, high = (magnitude >> 32) << at % 32;
    add_part(at / 32, low & 0xffffffffU);
    add_part(at / 32 + 1, (low >> 32) + (high & 0xffffffffU));
    add_part(at / 32 + 2, high >> 32);
  }

  int sign() {
    std::int64_t carry = 0;
    bool zero = true;
    for (std::int64_t& limb : limbs_) {
      const std::int64_t total = limb + carry;
      const std::int64_t kept = (total % kBase + kBase) % kBase;
      carry = (total - kept) / kBase;
      limb = kept;
      zero = zero && kept == 0;
    }
    if (carry < 0) return -1;
    return zero ? 0 : 1;
  }

 private:
  static constexpr int kLowest = 352;  // the last bit is 2^-352, below the smallest product of two numbers
  static constexpr std::int64_t kBase = std::int64_t{1} << 32;
  std::array<std::int64_t, 24> limbs_{};
};

}  // namespace medvlad::test
