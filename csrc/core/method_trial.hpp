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
  // Whether the next block is for the second method. `seconds`: time of a row in the block before.
  bool takes_second(double seconds) {
    if (block_ > 0 && block_ <= kTried) {
      double& best = best_[(block_ - 1) % 2];
      best = std::min(best, seconds);
    }
    if (block_ == kBlocks) *this = MethodTrial();
    const int block = block_++;
    return block < kTried ? block % 2 == 1 : best_[1] < best_[0];
  }

 private:
  static constexpr int kTried = 4, kBlocks = 256;

  int block_ = 0;
  double best_[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
};

}  // namespace medvlad
