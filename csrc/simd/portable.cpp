// Kernels for every processor. The caller's BLAS computes the scores; convolutions use vectors of four
// numbers.
#include "core/candidate_scorer.hpp"
#include "core/gram.hpp"
#include "core/scorer.hpp"
#include "vector_portable.hpp"
// Must follow the header that defines Vector.
#include "winograd.hpp"

namespace medvlad {

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  return make_sgemm_scorer(set, options.sgemm);
}

bool needs_sgemm(std::int64_t, std::int64_t, std::int64_t) { return true; }

std::unique_ptr<CandidateScorer> make_candidate_scorer(std::int64_t d) {
  return make_float_candidate_scorer(d);
}

const ConvKernels& conv_kernels() { return kWinogradKernels; }

GramKernel gram_kernel() { return nullptr; }

}  // namespace medvlad
