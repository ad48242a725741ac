// Built with the flags of its instruction set and loaded only where the processor has it.
#include "vector_avx2.hpp"
// After the Vector that it is written for.
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

}  // namespace medvlad
