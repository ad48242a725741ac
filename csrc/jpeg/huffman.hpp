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
class Bits {
 public:
  Bits(const std::uint8_t* data, std::size_t at, std::size_t size) : data_(data), at_(at), size_(size) {}

  // The next 16 bits, with zeros after the end.
  std::uint32_t peek16() {
    fill();
    const std::uint64_t held = n_ >= 16 ? held_ >> (n_ - 16) : held_ << (16 - n_);
    return static_cast<std::uint32_t>(held & 0xFFFF);
  }

  void skip(int n) {
    if (n > n_) throw Damage{"its data ends too early"};
    n_ -= n;
  }

  std::uint32_t take(int n) {
    if (n == 0) return 0;
    const std::uint32_t value = peek16() >> (16 - n);
    skip(n);
    return value;
  }

  // Checks that only the filling of the last byte is left. Returns the place of the marker that follows.
  std::size_t finish() {
    fill();
    if (n_ >= 8) throw Damage{"its data does not end where its last block ends"};
    const std::uint64_t ones = (std::uint64_t{1} << n_) - 1;
    const std::uint64_t left = held_ & ones;
    if (left != 0 && left != ones) throw Damage{"the unused bits of the last byte of a scan are not equal"};
    return at_;
  }

 private:
  void fill() {
    while (n_ <= 48 && at_ < size_) {
      const std::uint8_t byte = data_[at_];
      if (byte == 0xFF) {
        if (at_ + 1 >= size_ || data_[at_ + 1] != 0) return;  // a marker, or the end of the file
        ++at_;
      }
      ++at_;
      held_ = (held_ << 8) | byte;
      n_ += 8;
    }
  }

  const std::uint8_t* data_;
  std::size_t at_, size_;
  std::uint64_t held_ = 0;  // the last n_ bits are not read yet
  int n_ = 0;
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

  int next(Bits& bits) const {
    const std::uint32_t ahead = bits.peek16();
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

  std::array<std::uint16_t, 1 << kShort> short_{};  // length and symbol; 0 for longer codes
  std::uint32_t limit_[17] = {};
  std::int32_t first_[17] = {};  // place of a code's symbol, minus the code
  std::array<std::uint8_t, 256> symbols_{};
};

}  // namespace medvlad::jpeg
