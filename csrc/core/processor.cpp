#include "processor.hpp"

#include <algorithm>

#if defined(__linux__)
#include <unistd.h>
#endif

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

std::int64_t second_level_cache() {
  constexpr std::int64_t kUsual = 1 << 20;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const std::int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return std::clamp<std::int64_t>(bytes, 1 << 18, 1 << 22);
#endif
  return kUsual;
}

}  // namespace medvlad
