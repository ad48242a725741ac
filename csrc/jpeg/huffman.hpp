// Bits and Huffman codes of a JPEG scan.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace medvlad::jpeg {

// The stream breaks a rule. what() says which one.
class Damage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Bits of entropy-coded data, most significant bit first, up to the next marker.
//
// The bits that were loaded lie at the top of one word. Eight bytes without 0xFF are loaded at once: no byte
// of them is a marker or its escape. The part of them that exceeds the word is loaded again by the next
// fill(), which then changes nothing, because both write the same bits to the same place.
class Bits {
 public:
  Bits(const std::uint8_t* data, std::size_t at, std::size_t size) : data_(data), at_(at), size_(size) {}

  static constexpr int kFilled = 32;  // fill() loads at least as many bits, unless the data ends

  void fill() {
    if (n_ >= kFilled) return;
    if (at_ + 8 <= size_) {
      const std::uint64_t word = next_eight();
      if (!has_byte_of_ones(word)) {
        held_ |= word >> n_;
        const int n_bytes = (63 - n_) >> 3;
        at_ += static_cast<std::size_t>(n_bytes);
        n_ += 8 * n_bytes;
        return;
      }
    }
    fill_byte_by_byte();
  }

  // Number of bits that were loaded.
  int n_loaded() const { return n_; }

  // The next `n` bits, 1 to 32, with zeros after the end. They must have been loaded.
  std::uint32_t ahead(int n) const { return static_cast<std::uint32_t>(held_ >> (64 - n)); }

  void skip(int n) {
    if (n > n_) throw Damage{"its data ends too early"};
    held_ <<= n;
    n_ -= n;
  }

  // The next `n` bits, 0 to 16, of the loaded ones.
  std::uint32_t take_loaded(int n) {
    if (n == 0) return 0;
    const std::uint32_t value = ahead(n);
    skip(n);
    return value;
  }

  std::uint32_t take(int n) {
    fill();
    return take_loaded(n);
  }

  // Checks that only the filling of the last byte is left. Returns the place of the marker that follows.
  std::size_t finish() {
    fill();
    if (n_ >= 8) throw Damage{"its data does not end where its last block ends"};
    const std::uint32_t ones = (std::uint32_t{1} << n_) - 1, left = n_ == 0 ? 0 : ahead(n_);
    if (left != 0 && left != ones) throw Damage{"the unused bits of the last byte of a scan are not equal"};
    return at_;
  }

 private:
  std::uint64_t next_eight() const {
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < 8; ++i) word = (word << 8) | data_[at_ + i];
    return word;
  }

  static bool has_byte_of_ones(std::uint64_t word) {
    constexpr std::uint64_t kLowest = 0x0101010101010101u;
    return ((~word - kLowest) & word & (kLowest << 7)) != 0;
  }

  void fill_byte_by_byte() {
    while (n_ <= 56 && at_ < size_) {
      const std::uint8_t byte = data_[at_];
      if (byte == 0xFF) {
        if (at_ + 1 >= size_ || data_[at_ + 1] != 0) return;  // a marker, or the end of the file
        ++at_;
      }
      ++at_;
      held_ |= std::uint64_t{byte} << (56 - n_);
      n_ += 8;
    }
  }

  const std::uint8_t* data_;
  std::size_t at_, size_;
  std::uint64_t held_ = 0;  // the first n_ bits are not read yet
  int n_ = 0;
};

// The value of `n` bits in which JPEG writes a coefficient.
inline std::int32_t signed_value(std::uint32_t value, int n) {
  if (n == 0) return 0;
  const bool is_negative = value < (std::uint32_t{1} << (n - 1));
  const std::int32_t all_ones = static_cast<std::int32_t>((std::uint32_t{1} << n) - 1);
  return static_cast<std::int32_t>(value) - (is_negative ? all_ones : 0);
}

// A code for a run of zeros and a coefficient, together with the bits of the coefficient. 0 bits: none.
struct Pair {
  std::int16_t value = 0;
  std::uint8_t run = 0, n_bits = 0;
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
    find_pairs();
  }

  static constexpr int kPaired = 10;  // a code with its coefficient is looked up, if it has at most 10 bits

  // What the next kPaired bits are, if the table is one of AC coefficients.
  const Pair& pair(std::uint32_t ahead) const { return pairs_[ahead]; }

  // The next code. Bits::fill() is called, so the value after the code can be taken with take_loaded().
  int next(Bits& bits) const {
    bits.fill();
    const std::uint32_t ahead = bits.ahead(16);
    if (const std::uint16_t entry = short_[ahead >> (16 - kShort)]; entry != 0) {
      bits.skip(entry >> 8);
      return entry & 0xFF;
    }
    for (int length = kShort + 1; length <= 16; ++length) {
      if (ahead >= limit_[length]) continue;
      bits.skip(length);
      const std::int32_t code = static_cast<std::int32_t>(ahead >> (16 - length));
      return symbols_[static_cast<std::size_t>(code + first_[length]) & 0xFF];
    }
    throw Damage{"it holds a code that is in none of its Huffman tables"};
  }

 private:
  static constexpr int kShort = 9;  // codes of up to 9 bits are looked up

  void find_pairs() {
    for (std::uint32_t ahead = 0; ahead < pairs_.size(); ++ahead) {
      const std::uint16_t entry = short_[ahead >> (kPaired - kShort)];
      const int length = entry >> 8, n = entry & 15;
      if (entry == 0 || n == 0 || length + n > kPaired) continue;
      const std::uint32_t bits = (ahead >> (kPaired - length - n)) & ((std::uint32_t{1} << n) - 1);
      pairs_[ahead].value = static_cast<std::int16_t>(signed_value(bits, n));
      pairs_[ahead].run = static_cast<std::uint8_t>((entry & 0xFF) >> 4);
      pairs_[ahead].n_bits = static_cast<std::uint8_t>(length + n);
    }
  }

  std::array<std::uint16_t, 1 << kShort> short_{};  // length and symbol; 0 for longer codes
  std::uint32_t limit_[17] = {};
  std::int32_t first_[17] = {};  // place of a code's symbol, minus the code
  std::array<std::uint8_t, 256> symbols_{};
  std::array<Pair, 1 << kPaired> pairs_{};
};

}  // namespace medvlad::jpeg
