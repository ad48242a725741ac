// Built with the flags of its instruction set and loaded only where the processor has it.
#include "vector_avx2.hpp"
// After the Vector that it is written for.
#include "packed.hpp"

namespace medvlad {

bool needs_sgemm(std::int64_t k, std::int64_t d, std::int64_t pack_bytes) {
  return PackedScorer::bytes(k, d) > pack_bytes;
}

std::unique_ptr<const Scorer> make_scorer(const CenterSet& set, const ScorerOptions& options) {
  if (needs_sgemm(set.k, set.d, options.pack_bytes)) return make_sgemm_scorer(set, options.sgemm);
  return std::make_unique<PackedScorer>(set, options.method);
}

}  // namespace medvlad
