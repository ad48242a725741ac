#include "processor.hpp"

#include <algorithm>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__GNUC__) && defined(__x86_64__)
#include <cpuid.h>
#endif

namespace medvlad {

namespace {

// Whether the processor has bfloat16 tiles, and the operating system lets this process use them. Linux must
// be asked, once for a process; its threads and children inherit the answer.
bool has_tiles() {
#if defined(__linux__) && defined(__GNUC__) && defined(__x86_64__) && defined(SYS_arch_prctl)
  constexpr unsigned kTiles = 1U << 24, kBf16Products = 1U << 22;  // in EDX of leaf 7
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTiles) == 0 || (d & kBf16Products) == 0)
    return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

std::vector<std::string> supported_levels() {
  std::vector<std::string> levels;
#if defined(__GNUC__) && defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi2");
  if (bf16 && has_tiles()) levels.emplace_back("amx");
  if (bf16) levels.emplace_back("avx512bf16");
  if (avx512) levels.emplace_back("avx512");
  if (avx2) levels.emplace_back("avx2");
  if (avx2) levels.emplace_back("amx_emulated");
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
