// Checks of how a scorer chooses a method by the blocks before.
#pragma once

#include <string>

#include "core/method_trial.hpp"
#include "core/scorer.hpp"
#include "test/plain.hpp"

namespace medvlad::test {

// Four blocks in turn, then the faster method, until the next trial.
inline void check_trial() {
  for (const bool second_is_faster : {false, true}) {
    MethodTrial trial;
    for (int block = 0; block < 600; ++block) {
      const bool second = trial.takes_second();
      const bool expected = block % 256 < 4 ? block % 2 == 1 : second_is_faster;
      check(second == expected, "trial, block " + std::to_string(block));
      // Each method is slow once.
      const double slow = block % 256 < 2 ? 10.0 : 0.0;
      trial.record(slow + (second == second_is_faster ? 1.0 : 2.0));
      trial.record(0.1);  // of a block that was not tried
    }
  }
}

// After a block with many candidates, 64 blocks have more bits. Blocks of other methods say nothing.
inline void check_fine() {
  ScorerHistory history;
  const auto block = [&](double candidates) {
    const bool fine = history.needs_fine(4.0);
    history.end_block(1, candidates);
    return fine;
  };
  for (const double candidates : {1.0, 4.0, 1.0}) check(!block(candidates), "few candidates");
  history.end_block(1, 100.0);
  check(!block(5.0), "candidates of another method");
  for (int i = 0; i < 64; ++i) check(block(100.0), "fine block " + std::to_string(i));
  check(!block(1.0), "coarse again");
  check(!block(1.0), "still coarse");
}

}  // namespace medvlad::test
