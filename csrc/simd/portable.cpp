// Every processor: the caller's BLAS computes the scores.
#include "core/scorer.hpp"

namespace medvlad {

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  return make_sgemm_scorer(set, options.sgemm);
}

bool needs_sgemm(std::int64_t, std::int64_t, std::int64_t) { return true; }

}  // namespace medvlad
