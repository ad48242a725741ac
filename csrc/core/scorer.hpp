// Scores s_k = x.c_k - |c_k|^2 / 2 of blocks of rows against all centres: the one part of the core that each
// instruction set writes for itself (csrc/simd/*.cpp, one of which is linked into each module).
//
// A score may be rounded in any way as long as its row's bound says how far it can be from the real number:
// labels are decided from the bounds (assign.hpp), so they do not depend on who computed the scores.
#pragma once

#include <cstdint>
#include <memory>

#include "decide.hpp"
#include "pending_zeros.hpp"
#include "sgemm.hpp"

namespace medvlad {

// How to multiply. `automatic` looks at the data; the others are for tests and measurements, and fall back to
// `dense` where an instruction set has no such way.
enum class Method { automatic, dense, sparse, bf16 };

class Scorer {
 public:
  virtual ~Scorer() = default;

  // Writes scores[r * stride + k] for rows r in [0, n), n <= block_rows, and k in [0, K), and errors[r], a
  // bound on |computed - real| of every score of row r, up to a number that all scores of the row share;
  // infinite where a score may not be a number. What
  // lies between K and the stride is undefined. `zeros` may be written meanwhile. Safe to call from several
  // threads.
  virtual void operator()(const float* x, std::int64_t n, float* scores, double* errors,
                          PendingZeros& zeros) const = 0;

  std::int64_t stride = 0;
  std::int64_t block_rows = 0;
};

// What a scorer needs to know beyond the centres.
struct ScorerOptions {
  Sgemm sgemm;
  Method method = Method::automatic;
  // Bytes that a packed copy of the centres may take; a codebook beyond them goes through sgemm.
  std::int64_t pack_bytes = 0;
};

// Rows whose scores are computed at a time, so that they stay in cache and within a bounded memory.
std::int64_t rows_of_a_block(std::int64_t stride, std::int64_t most);

// The scorer of the instruction set this module was built for. `set` is borrowed.
std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options);

// Whether it calls sgemm for k centres of d numbers.
bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes);

// Scores through the caller's BLAS: the whole of the portable module, and the way of codebooks too large to
// pack.
std::unique_ptr<const Scorer> make_sgemm_scorer(const CenterSet& set, Sgemm sgemm);

}  // namespace medvlad
