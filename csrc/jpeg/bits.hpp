// The bits of a JPEG scan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace medvlad::jpeg {

// The stream breaks a rule. what() says which one.
class Damage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Entropy-coded data up to the next marker, without the zero that JPEG writes after each byte 0xFF. Zeros
// follow it, so that the codes of a block can be read without asking at each of them where the data ends.
class Interval {
 public:
  // `data`: a file of `size` bytes, which may hold several intervals.
  Interval(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  // Copies the data from this place on.
  void load(std::size_t at) {
    if (bytes_.empty()) bytes_.resize(size_ + kZeros);
    n_bytes_ = 0;
    while (at < size_) {
      const void* ones = std::memchr(data_ + at, 0xFF, size_ - at);
      std::size_t n = size_ - at;
      if (ones != nullptr) n = static_cast<std::size_t>(static_cast<const std::uint8_t*>(ones) - data_) - at;
      const bool is_escape = at + n + 1 < size_ && data_[at + n + 1] == 0;  // otherwise a marker, or the end
      std::memcpy(bytes_.data() + n_bytes_, data_ + at, n + (is_escape ? 1 : 0));
      n_bytes_ += n, at += n;
      if (!is_escape) break;
      n_bytes_ += 1, at += 2;
    }
    std::memset(bytes_.data() + n_bytes_, 0, kZeros);
    end_ = at;
  }

  const std::uint8_t* bytes() const { return bytes_.data(); }
  std::size_t n_bytes() const { return n_bytes_; }
  std::size_t end() const { return end_; }  // place of the marker that follows, in the file

 private:
  // A block has at most 64 codes of 16 bits, each with 11 bits of a value. 16 bytes are loaded ahead.
  static constexpr std::size_t kZeros = 64 * (16 + 11) / 8 + 16;

  const std::uint8_t* data_;
  std::size_t size_, n_bytes_ = 0, end_ = 0;
  std::vector<std::uint8_t> bytes_;
};

// Bits of an interval, most significant bit first. After each block, ask has_ended(): zeros follow the data.
//
// The bits that were loaded lie at the top of one word. fill() loads eight bytes at once. The part of them
// that exceeds the word is loaded again by the next fill(), which then changes nothing, because both write
// the same bits to the same place.
class Bits {
 public:
  explicit Bits(const Interval& interval)
      : begin_(interval.bytes()), next_(begin_), n_bits_(8 * static_cast<std::int64_t>(interval.n_bytes())) {}

  void restart(const Interval& interval) { *this = Bits(interval); }

  static constexpr int kFilled = 56;  // fill() loads at least as many bits

  void fill() {
    std::uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word = (word << 8) | next_[i];
    held_ |= word >> n_;
    next_ += (63 - n_) >> 3;
    n_ |= kFilled;  // adds 8 for each of these bytes
  }

  // The next `n` bits, 1 to 32. They must have been loaded.
  std::uint32_t ahead(int n) const { return static_cast<std::uint32_t>(held_ >> (64 - n)); }

  void skip(int n) {
    held_ <<= n;
    n_ -= n;
  }

  // The next `n` bits, 0 to 16, of the loaded ones.
  std::uint32_t take_loaded(int n) {
    const std::uint32_t value = static_cast<std::uint32_t>(held_ >> 1 >> (63 - n));
    skip(n);
    return value;
  }

  std::uint32_t take(int n) {
    fill();
    return take_loaded(n);
  }

  // Whether more bits were read than there are.
  bool has_ended() const { return left() < 0; }

  // Checks that only the filling of the last byte is left.
  void finish() {
    fill();
    const int n = static_cast<int>(left() < 8 ? left() : 8);
    if (n == 8) throw Damage{"its data does not end where its last block ends"};
    const std::uint32_t ones = (std::uint32_t{1} << n) - 1, unused = n == 0 ? 0 : ahead(n);
    if (unused != 0 && unused != ones) {
      throw Damage{"the unused bits of the last byte of a scan are not equal"};
    }
  }

 private:
  std::int64_t left() const { return n_bits_ - 8 * static_cast<std::int64_t>(next_ - begin_) + n_; }

  const std::uint8_t *begin_, *next_;
  std::int64_t n_bits_;
  std::uint64_t held_ = 0;  // the first n_ bits are not read yet
  int n_ = 0;
};

// A copy of bits, which the compiler keeps in registers if everything that reads them is inlined. They are
// written back at the end, also if that is an exception.
class Local : public Bits {
 public:
  explicit Local(Bits& shared) : Bits(shared), shared_(shared) {}
  Local(const Local&) = delete;
  Local& operator=(const Local&) = delete;
  ~Local() { shared_ = *this; }

 private:
  Bits& shared_;
};

}  // namespace medvlad::jpeg
