// Kernels for AMX with bfloat16 tiles. Compiled with its flags, and loaded only if processor and operating
// system support it.
#include "core/processor.hpp"
#include "vector_avx512.hpp"
// Must follow the header that defines Vector.
#include "gram_tiles.hpp"
#include "packed.hpp"
#include "tile_candidates.hpp"
#include "tile_scorer.hpp"
#include "winograd.hpp"

namespace medvlad {

namespace {

// Whether this process may use tiles. The system is asked once.
bool granted() {
  static const bool answer = may_use_tiles();
  return answer;
}

}  // namespace

bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  return tiles_need_sgemm(k, d, pack_bytes);
}

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  return granted() ? make_tile_scorer(set, options) : make_packed_or_sgemm<PackedScorer>(set, options);
}

std::unique_ptr<CandidateScorer> make_candidate_scorer(std::int64_t d) {
  if (!granted()) return make_float_candidate_scorer(d);
  return std::make_unique<TileCandidateScorer>(d);
}

const ConvKernels& conv_kernels() { return kWinogradKernels; }

GramKernel gram_kernel() { return granted() ? gram_of_tiles : nullptr; }

}  // namespace medvlad
