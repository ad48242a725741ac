// Built with the flags of its instruction set and loaded only where the processor has it.
#include "vector_avx512.hpp"
// After the Vector that they are written for.
#include "bf16.hpp"
#include "packed.hpp"
#include "winograd.hpp"

namespace medvlad {

bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  return PackedScorer::bytes(k, d) > pack_bytes;
}

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  return make_packed_or_sgemm<Bf16Scorer>(set, options);
}

const ConvKernels& conv_kernels() { return kWinogradKernels; }

}  // namespace medvlad
