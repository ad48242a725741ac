// Interface of the scorers, which compute the scores of blocks of rows against all centres:
//
//   s_k = x.c_k - |c_k|^2 / 2      (the nearest centre has the largest score)
//
// Each instruction set has its own scorer (csrc/simd/*.cpp, one of which is linked into each module). A
// scorer may round in any way, as long as it returns a bound on the error of each row. Labels are decided
// from these bounds (assign.hpp), so they do not depend on the scorer.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "decide.hpp"
#include "method_trial.hpp"
#include "pending_zeros.hpp"
#include "sgemm.hpp"

namespace medvlad {

// How to multiply. `automatic` chooses by the data. The others are for tests and measurements; if an
// instruction set does not have one of them, it uses `dense`. With tiles, `dense` and `bf16` are one product
// of bfloat16.
enum class Method { automatic, dense, sparse, bf16, bf16x3 };

// Scores and error bounds of a block of rows.
struct ScoredRows {
  float* scores;   // (n, stride): scores[r * stride + k] for centre k; undefined between K and the stride
  double* errors;  // (n): bound on |computed - real| of every score of the row, for finite centres; infinite
                   // if one may be NaN
  double* norms;   // (n): bound on |x|, close to it; not finite if a number of the row is not
};

// What a caller has seen in the blocks before, so that the scorer can choose a method.
class ScorerHistory {
 public:
  // Which of two methods is faster.
  MethodTrial trial;

  // Whether to multiply a block with more bits: for kFineBlocks blocks after one without them that left more
  // than `most` candidates for a row.
  bool needs_fine(double most) {
    if (candidates_ > most) {
      fine_blocks_ = kFineBlocks;
      candidates_ = 1.0;
    }
    is_coarse_ = fine_blocks_ == 0;
    if (!is_coarse_) --fine_blocks_;
    return !is_coarse_;
  }

  // A block takes the time from the last call of begin_block to end_block. `candidates`: mean number of
  // candidates of a row.
  void begin_block() { begin_ = Clock::now(); }
  void end_block(std::int64_t n_rows, double candidates) {
    trial.record(std::chrono::duration<double>(Clock::now() - begin_).count() / static_cast<double>(n_rows));
    if (is_coarse_) candidates_ = candidates;
    is_coarse_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kFineBlocks = 64;

  double candidates_ = 1.0;  // of the last block that needs_fine was asked about
  int fine_blocks_ = 0;      // number of blocks left
  bool is_coarse_ = false;   // whether it was asked about this block, and said no
  Clock::time_point begin_;
};

class Scorer {
 public:
  virtual ~Scorer() = default;

  // Score n rows, n <= block_rows. Scores may be off by an offset that all scores of a row share. The scorer
  // may write some of `zeros` meanwhile. Several threads may call it at once, each with its own history.
  virtual void operator()(const float* x, std::int64_t n, const ScoredRows& to, ScorerHistory& history,
                          PendingZeros& zeros) const = 0;

  std::int64_t stride = 0;
  std::int64_t block_rows = 0;
};

// Options of a scorer.
struct ScorerOptions {
  Sgemm sgemm;
  Method method = Method::automatic;
  // Maximum size of a packed copy of the centres in bytes. Larger codebooks are multiplied by sgemm.
  std::int64_t pack_bytes = 0;
  // Number of rows of the call. Some ways of packing the centres are worth it for many rows only.
  std::int64_t n_rows = 0;
};

// Number of rows whose scores are computed at a time, at most `most`. It bounds the memory of the scores and
// keeps them in cache.
std::int64_t rows_of_a_block(std::int64_t stride, std::int64_t most);

// With more dimensions, scorers use sgemm: their buffers for a few rows would be too large.
inline constexpr std::int64_t kMostDimensions = 8192;

// The scorer of the instruction set that this module is compiled for. `set` must outlive it.
std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options);

// Whether that scorer calls sgemm for k centres of d numbers.
bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes);

// A scorer that multiplies by the caller's BLAS. The portable module always uses it; the others use it for
// codebooks that are too large to pack.
std::unique_ptr<const Scorer> make_sgemm_scorer(const CenterSet& set, Sgemm sgemm);

}  // namespace medvlad
