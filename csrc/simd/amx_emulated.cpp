// The kernels of amx.cpp with emulated tiles (tiles.hpp), for tests on processors without AMX.
#include "vector_avx2.hpp"
// Must follow the header that defines Vector.
#include "gram_tiles.hpp"
#include "tile_candidates.hpp"
#include "tile_scorer.hpp"
#include "winograd.hpp"

namespace medvlad {

bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  return tiles_need_sgemm(k, d, pack_bytes);
}

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  return make_tile_scorer(set, options);
}

std::unique_ptr<CandidateScorer> make_candidate_scorer(std::int64_t d) {
  return std::make_unique<TileCandidateScorer>(d);
}

const ConvKernels& conv_kernels() { return kWinogradKernels; }

GramKernel gram_kernel() { return gram_of_tiles; }

}  // namespace medvlad
