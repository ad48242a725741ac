#include "processor.hpp"

namespace medvlad {

std::vector<std::string> supported_levels() {
  std::vector<std::string> levels;
#if defined(__GNUC__) && defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi2");
  if (bf16) levels.emplace_back("avx512bf16");
  if (avx512) levels.emplace_back("avx512");
  if (avx2) levels.emplace_back("avx2");
#endif
  levels.emplace_back("portable");
  return levels;
}

}  // namespace medvlad
