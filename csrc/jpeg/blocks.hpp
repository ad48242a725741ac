// Blocks of 8 x 8 coefficients in a JPEG scan: their codes are read and checked, their values are not kept.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "jpeg/huffman.hpp"

namespace medvlad::jpeg {

constexpr int kLast = 63;  // of the coefficients of a block
// 8-bit samples give DC coefficients of -1024 to 1016. Approximate transforms go a little beyond.
constexpr std::int64_t kLargestDC = 1024 + 16;
constexpr const char* kTooLong = "a run of zeros goes beyond the end of its block";

// A colour channel.
struct Component {
  int id = 0, h = 0, v = 0, table = 0;
  std::int64_t columns = 0, rows = 0;  // blocks that hold pixels
  std::int64_t stride = 0;             // blocks of a row, including those that fill the last MCU
  std::int64_t dc = 0;                 // of the block before
  Codes *dc_codes = nullptr, *ac_codes = nullptr;
  std::vector<std::uint64_t> nonzero;         // progressive: a bit for each coefficient of each block
  std::array<int, kLast + 1> bits_to_come{};  // progressive: lowest bit that was sent; -1: nothing was sent
  bool seen = false;                          // there was a scan with its DC coefficients
};

// One pass over some of the channels.
struct Scan {
  bool progressive = false;
  std::vector<Component*> components;
  int first = 0, last = kLast, high = 0, low = 0;
  std::int64_t end_of_bands = 0;  // number of blocks that have no further coefficients
};

inline std::int64_t blocks_that_end(int n, Bits& bits) {
  return (std::int64_t{1} << n) + static_cast<std::int64_t>(bits.take(n));
}

inline void check_coefficient(int k, int last, int n) {
  if (k > last) throw Damage{kTooLong};
  if (n > 10) throw Damage{"it holds a coefficient of too many bits"};
}

// Steps of quantisation.
struct Quanta {
  std::int64_t steps[kLast + 1] = {};
  std::int64_t largest[kLast + 2] = {};  // square of the largest step before each place, without that of DC

  void find_largest() {
    for (int k = 1; k <= kLast; ++k) largest[k + 1] = std::max(largest[k], steps[k] * steps[k]);
  }
};

inline void read_dc(const Scan& scan, Component& one, const Quanta& quanta, Bits& bits) {
  const int n = one.dc_codes->next(bits);
  if (n > 11) throw Damage{"it holds a coefficient of too many bits"};
  one.dc += signed_value(bits.take_loaded(n), n);
  // The encoder rounded, and left out the lowest `low` bits by rounding down.
  const std::int64_t quantum = quanta.steps[0], step = std::int64_t{1} << scan.low;
  if (std::abs(one.dc) * step * quantum > kLargestDC + quantum / 2 + (step - 1) * quantum) {
    throw Damage{"it holds a brightness that does not exist"};
  }
}

// 64 samples of -128 to 127 have a norm of at most 1024, and so have their coefficients (Parseval). Rounding
// may have added one step to each. mozjpeg lets white areas overshoot by 31 beside edges.
constexpr std::int64_t kLargestNorm = 1152;

// Checks the norm of a block whose codes are sound.
// Coefficients have at most 10 bits and steps 16, so the sums stay below 2^59.
inline void check_norm(const Component& one, const Quanta& quanta, Bits bits) {
  std::int64_t squares = 0, rounding = 0;
  const auto add = [&](std::int64_t value, std::int64_t quantum) {
    squares += value * value * quantum * quantum, rounding += quantum * quantum;
  };
  add(one.dc, quanta.steps[0]);
  for (int k = 1; k <= kLast; ++k) {
    const int code = one.ac_codes->next(bits), n = code & 15;
    if (code == 0) break;
    k += code >> 4;
    if (n > 0) add(signed_value(bits.take_loaded(n), n), quanta.steps[k]);
  }
  const double largest = static_cast<double>(kLargestNorm) + std::sqrt(static_cast<double>(rounding));
  if (static_cast<double>(squares) > largest * largest) throw Damage{"it holds contrasts that do not exist"};
}

// Reads the AC coefficients of a block of sequential coding. `bound` is at least the square of its norm: each
// coefficient is taken with the largest step up to the place behind its code.
inline void read_ac(const Component& one, const Quanta& quanta, Bits& bits) {
  const Bits start = bits;
  const auto& jumps = one.ac_codes->jumps();
  std::int64_t bound = one.dc * one.dc * quanta.steps[0] * quanta.steps[0];
  int k = 1;
  while (k <= kLast) {
    Jump jump;
    int next = 0;
    bits.fill();
    for (int i = 0; i < Bits::kFilled / Codes::kAhead; ++i) {
      jump = jumps[bits.ahead(Codes::kAhead)];
      next = k + jump.advance;
      if (next > kLast) break;
      bits.skip(jump.n_bits);
      bound += jump.squares * quanta.largest[next];
      k = next;
    }
    if (next <= kLast) continue;
    // All 64 coefficients are complete, or the last code ends the block before them.
    const int end = next == kLast + 1 ? next : next - Jump::kEnd;
    if (end == next || (end > 0 && end <= kLast)) {
      bits.skip(jump.n_bits);
      bound += jump.squares * quanta.largest[end];
      break;
    }
    const int code = one.ac_codes->next(bits), run = code >> 4, n = code & 15;
    if (code == 0) break;
    if (n == 0 && run != 15) throw Damage{"it holds a code that is in none of its Huffman tables"};
    k += run;
    check_coefficient(k, kLast, n);
    const std::int64_t value = signed_value(bits.take_loaded(n), n) * quanta.steps[k];
    bound += value * value;
    ++k;
  }
  if (bound > kLargestNorm * kLargestNorm && !bits.has_ended()) check_norm(one, quanta, start);
}

inline void read_band(Scan& scan, const Codes& codes, std::uint64_t& nonzero, Bits& bits) {
  if (scan.end_of_bands > 0) {
    --scan.end_of_bands;
    return;
  }
  std::uint64_t found = 0;
  for (int k = scan.first; k <= scan.last; ++k) {
    const int code = codes.next(bits), run = code >> 4, n = code & 15;
    if (n == 0 && run < 15) {
      scan.end_of_bands = blocks_that_end(run, bits) - 1;
      break;
    }
    k += run;
    if (n == 0) {
      if (k > scan.last) throw Damage{kTooLong};
      continue;
    }
    check_coefficient(k, scan.last, n);
    bits.skip(n);
    found |= std::uint64_t{1} << k;
  }
  nonzero |= found;
}

// Skips the bits that refine the coefficients first to last, one for each of them that `nonzero` holds.
inline void skip_refinements(std::uint64_t nonzero, int first, int last, Bits& bits) {
  const std::uint64_t up_to_last = last == kLast ? ~std::uint64_t{0} : (std::uint64_t{2} << last) - 1;
  for (std::uint64_t left = nonzero & up_to_last & (~std::uint64_t{0} << first); left != 0;
       left &= left - 1) {
    bits.take(1);
  }
}

inline void refine_band(Scan& scan, const Codes& codes, std::uint64_t& nonzero, Bits& bits) {
  const std::uint64_t before = nonzero;
  const auto was_sent = [&](int k) { return ((before >> k) & 1) != 0; };
  int k = scan.first;
  for (; scan.end_of_bands == 0 && k <= scan.last; ++k) {
    const int code = codes.next(bits), n = code & 15;
    int run = code >> 4;
    if (n > 1) throw Damage{"it holds a coefficient of too many bits"};
    if (n == 0 && run < 15) {
      scan.end_of_bands = blocks_that_end(run, bits);
      break;
    }
    if (n == 1) bits.take(1);
    for (; k <= scan.last; ++k) {
      if (was_sent(k)) {
        bits.take(1);
      } else if (--run < 0) {
        break;
      }
    }
    if (k > scan.last) throw Damage{kTooLong};
    if (n == 1) nonzero |= std::uint64_t{1} << k;
  }
  if (scan.end_of_bands > 0) {
    if (k <= scan.last) skip_refinements(before, k, scan.last, bits);
    --scan.end_of_bands;
  }
}

// Reads the codes of one block. `quanta`: the quantisation tables.
inline void read_block(Scan& scan, Component& one, const Quanta quanta[4], std::int64_t block, Bits& bits) {
  if (scan.first == 0) {
    if (scan.high == 0) {
      read_dc(scan, one, quanta[one.table], bits);
    } else {
      bits.take(1);
    }
  }
  if (!scan.progressive) {
    read_ac(one, quanta[one.table], bits);
  } else if (scan.first != 0) {
    std::uint64_t& nonzero = one.nonzero[static_cast<std::size_t>(block)];
    if (scan.high == 0) {
      read_band(scan, *one.ac_codes, nonzero, bits);
    } else {
      refine_band(scan, *one.ac_codes, nonzero, bits);
    }
  }
  if (bits.has_ended()) throw Damage{"its data ends too early"};
}

}  // namespace medvlad::jpeg
