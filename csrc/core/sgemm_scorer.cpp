// Scores by the caller's BLAS: s = x c^T + bias, with bias_k = -|c_k|^2 / 2, in blocks of rows.
#include <algorithm>

#include "scorer.hpp"

namespace medvlad {

namespace {

constexpr std::int64_t kBlockRows = 256;        // rows of one sgemm call
constexpr std::int64_t kBlockScores = 1 << 18;  // at most this many scores at a time: 1 MiB

class SgemmScorer final : public Scorer {
 public:
  SgemmScorer(const CenterSet& set, Sgemm sgemm) : set_(set), sgemm_(sgemm), error_(set) {
    stride = set.k;
    block_rows = rows_of_a_block(stride, kBlockRows);
  }

  void operator()(const float* x, std::int64_t n, const ScoredRows& to, ScorerHistory& /*history*/,
                  PendingZeros& zeros) const override {
    zeros.all();
    for (std::int64_t row = 0; row < n; ++row) {
      std::copy(set_.bias.begin(), set_.bias.end(), to.scores + row * stride);
      to.norms[row] = norm_bound(x + row * set_.d, set_.d);
      to.errors[row] = error_.of(to.norms[row]);
    }
    sgemm_(n, set_.k, set_.d, x, set_.centers, 1.0F, to.scores);
  }

 private:
  const CenterSet& set_;
  Sgemm sgemm_;
  Float32Error error_;
};

}  // namespace

std::int64_t rows_of_a_block(std::int64_t stride, std::int64_t most) {
  return std::clamp<std::int64_t>(kBlockScores / stride, 1, most);
}

std::unique_ptr<const Scorer> make_sgemm_scorer(const CenterSet& set, Sgemm sgemm) {
  return std::make_unique<SgemmScorer>(set, sgemm);
}

}  // namespace medvlad
