// Kernels for AMX with bfloat16 tiles. Compiled with its flags, and loaded only if processor and operating
// system support it.
#include "core/processor.hpp"
#include "vector_avx512.hpp"
// Must follow the header that defines Vector.
#include "packed.hpp"
#include "tile_scorer.hpp"
#include "winograd.hpp"

namespace medvlad {

bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  return tiles_need_sgemm(k, d, pack_bytes);
}

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  static const bool granted = may_use_tiles();
  return granted ? make_tile_scorer(set, options) : make_packed_or_sgemm<PackedScorer>(set, options);
}

const ConvKernels& conv_kernels() { return kWinogradKernels; }

}  // namespace medvlad
