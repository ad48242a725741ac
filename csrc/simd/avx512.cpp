// Kernels for AVX-512. Compiled with its flags, and loaded only if the processor supports it.
#include "core/candidate_scorer.hpp"
#include "core/gram.hpp"
#include "vector_avx512.hpp"
// Must follow the header that defines Vector.
#include "packed.hpp"
#include "winograd.hpp"

namespace medvlad {

bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  return !PackedScorer::fits(k, d, pack_bytes);
}

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  return make_packed_or_sgemm<PackedScorer>(set, options);
}

std::unique_ptr<CandidateScorer> make_candidate_scorer(std::int64_t d) {
  return make_float_candidate_scorer(d);
}

const ConvKernels& conv_kernels() { return kWinogradKernels; }

GramKernel gram_kernel() { return nullptr; }

}  // namespace medvlad
