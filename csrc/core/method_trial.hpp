// Which of two methods is faster for the rows at hand, found by timing blocks of rows.
//
// The methods give the same labels. Which one is faster depends on the processor, on the share of zeros and
// on the number of candidates that they leave, so it is tried: four blocks in turn, then the faster one for
// the rest of kBlocks blocks.
#pragma once

#include <algorithm>
#include <limits>

namespace medvlad {

class MethodTrial {
 public:
  // Whether the next block is for the second method.
  bool takes_second() {
    if (block_ == kBlocks) *this = MethodTrial();
    second_ = block_ < kTried ? block_ % 2 == 1 : best_[1] < best_[0];
    waits_ = block_++ < kTried;
    return second_;
  }

  // The time of a row in the last block. It is ignored if that block was not tried.
  void record(double seconds) {
    if (!waits_) return;
    double& best = best_[second_ ? 1 : 0];
    best = std::min(best, seconds);
    waits_ = false;
  }

 private:
  static constexpr int kTried = 4, kBlocks = 256;

  int block_ = 0;
  bool second_ = false, waits_ = false;
  double best_[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
};

}  // namespace medvlad
