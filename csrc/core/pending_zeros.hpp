// A list of output ranges that must still be filled with zeros: the empty cells of finished images.
//
// A streamed store waits for memory, but a multiply-add does not. So the zeros are written in small steps
// between the multiply-adds of the next rows. With 49 descriptors and 256 centres four fifths of the output
// are zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "write.hpp"

namespace medvlad {

class PendingZeros {
 public:
  void add(float* out, std::int64_t n) {
    if (n <= 0) return;
    // Images with few rows add zeros faster than `some` writes them, so the list must be bounded.
    if (ranges_.size() == kMost) all();
    ranges_.push_back({out, n});
  }

  // Write up to `n` zeros.
  void some(std::int64_t n) {
    while (n > 0 && !ranges_.empty()) {
      Range& range = ranges_.back();
      const std::int64_t now = n < range.n ? n : range.n;
      write_zeros(now, range.out, true);
      range.out += now;
      range.n -= now;
      n -= now;
      if (range.n == 0) ranges_.pop_back();
    }
  }

  void all() {
    for (const Range& range : ranges_) write_zeros(range.n, range.out, true);
    ranges_.clear();
  }

 private:
  static constexpr std::size_t kMost = 4096;

  struct Range {
    float* out;
    std::int64_t n;
  };
  std::vector<Range> ranges_;
};

}  // namespace medvlad
