// The kernels of amx.cpp with emulated tiles (tiles.hpp), for tests on processors without AMX.
#include "vector_avx2.hpp"
// Must follow the header that defines Vector.
#include "gram_tiles.hpp"
#include "packed.hpp"
#include "winograd.hpp"

namespace medvlad {

bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  return PackedScorer::bytes(k, d) > pack_bytes;
}

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  return make_packed_or_sgemm<PackedScorer>(set, options);
}

const ConvKernels& conv_kernels() { return kWinogradKernels; }

GramKernel gram_kernel() { return gram_of_tiles; }

}  // namespace medvlad
