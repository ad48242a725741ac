// Huffman codes of a JPEG scan.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "jpeg/bits.hpp"

namespace medvlad::jpeg {

// The value of `n` bits in which JPEG writes a coefficient.
inline std::int32_t signed_value(std::uint32_t value, int n) {
  const bool is_negative = 2 * value < (std::uint32_t{1} << n);
  const std::int32_t all_ones = static_cast<std::int32_t>((std::uint32_t{1} << n) - 1);
  return static_cast<std::int32_t>(value) - (is_negative ? all_ones : 0);  // 0 of 0 bits
}

// One or two codes of AC coefficients, with the bits of the coefficients.
struct Jump {
  static constexpr int kNone = 255, kEnd = 128;

  std::uint16_t squares = 0;  // sum of the squares of the coefficients
  std::uint8_t advance =
      kNone;  // coefficients that they stand for, with zeros; kEnd more: they end the block
  std::uint8_t n_bits = 0;
};

// A Huffman table.
class Codes {
 public:
  // `counts`: number of codes of 1 to 16 bits. `symbols`: their symbols, as many as the counts say.
  Codes(const std::uint8_t* counts, const std::uint8_t* symbols) {
    std::uint32_t code = 0, n = 0;
    for (int length = 1; length <= 16; ++length) {
      first_[length] = static_cast<std::int32_t>(n) - static_cast<std::int32_t>(code);
      for (int i = 0; i < counts[length - 1]; ++i, ++code, ++n) {
        symbols_[n] = symbols[n];
        if (length > kShort || code >= (std::uint32_t{1} << length)) continue;
        const std::uint32_t begin = code << (kShort - length), end = (code + 1) << (kShort - length);
        for (std::uint32_t entry = begin; entry < end; ++entry) {
          short_[entry] = static_cast<std::uint16_t>((length << 8) | symbols[n]);
        }
      }
      if (code > (std::uint32_t{1} << length)) throw Damage{"one of its Huffman tables has too many codes"};
      // Codes of this length lie below this limit, in 16 bits.
      limit_[length] = code << (16 - length);
      code <<= 1;
    }
  }

  static constexpr int kAhead = 11;  // codes with their coefficients are looked up, if they have so few bits

  // What the next kAhead bits are, if the table is one of AC coefficients. Call find_jumps() before.
  const std::array<Jump, 1 << kAhead>& jumps() const { return jumps_; }

  void find_jumps() {
    if (has_jumps_) return;
    std::array<Jump, 1 << kAhead> single;
    for (std::uint32_t ahead = 0; ahead < single.size(); ++ahead) single[ahead] = first_jump(ahead);
    for (std::uint32_t ahead = 0; ahead < single.size(); ++ahead) {
      const Jump one = single[ahead];
      jumps_[ahead] = one;
      if (one.advance >= Jump::kEnd) continue;
      const Jump two = single[(ahead << one.n_bits) & (single.size() - 1)];
      if (two.advance == Jump::kNone || one.n_bits + two.n_bits > kAhead) continue;
      jumps_[ahead].squares = static_cast<std::uint16_t>(one.squares + two.squares);
      jumps_[ahead].advance = static_cast<std::uint8_t>(one.advance + two.advance);
      jumps_[ahead].n_bits = static_cast<std::uint8_t>(one.n_bits + two.n_bits);
    }
    has_jumps_ = true;
  }

  // The next code. Bits::fill() is called, so the value after the code can be taken with take_loaded().
  int next(Bits& bits) const {
    bits.fill();
    const std::uint32_t ahead = bits.ahead(16);
    std::uint32_t entry = short_[ahead >> (16 - kShort)];
    if (entry == 0) entry = find_long(ahead);
    bits.skip(static_cast<int>(entry >> 8));
    return static_cast<int>(entry & 0xFF);
  }

 private:
  static constexpr int kShort = 9;  // codes of up to 9 bits are looked up

  // Length and symbol of a code that is not in short_.
  std::uint32_t find_long(std::uint32_t ahead) const {
    for (std::uint32_t length = kShort + 1; length <= 16; ++length) {
      if (ahead >= limit_[length]) continue;
      const std::int32_t code = static_cast<std::int32_t>(ahead >> (16 - length));
      return (length << 8) | symbols_[static_cast<std::size_t>(code + first_[length]) & 0xFF];
    }
    throw Damage{"it holds a code that is in none of its Huffman tables"};
  }

  // The first code. Coefficients of more than 7 bits are left out: two of their squares exceed 16 bits.
  Jump first_jump(std::uint32_t ahead) const {
    const std::uint16_t entry = short_[ahead >> (kAhead - kShort)];
    const int length = entry >> 8, run = (entry & 0xFF) >> 4, n = entry & 15;
    const bool is_known = n > 0 || run == 0 || run == 15;
    if (entry == 0 || !is_known || n > 7 || length + n > kAhead) return {};
    const std::uint32_t bits = (ahead >> (kAhead - length - n)) & ((std::uint32_t{1} << n) - 1);
    const std::int32_t value = signed_value(bits, n);
    Jump jump;
    jump.squares = static_cast<std::uint16_t>(value * value);
    jump.advance = static_cast<std::uint8_t>(n == 0 && run == 0 ? Jump::kEnd : run + 1);
    jump.n_bits = static_cast<std::uint8_t>(length + n);
    return jump;
  }

  std::array<std::uint16_t, 1 << kShort> short_{};  // length and symbol; 0 for longer codes
  std::uint32_t limit_[17] = {};
  std::int32_t first_[17] = {};  // place of a code's symbol, minus the code
  std::array<std::uint8_t, 256> symbols_{};
  std::array<Jump, 1 << kAhead> jumps_{};
  bool has_jumps_ = false;
};

}  // namespace medvlad::jpeg
