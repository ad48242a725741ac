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

// Whether the processor has bfloat16 tiles, and the operating system saves them when it switches threads.
// This asks for no permission.
bool has_tiles() {
#if defined(__linux__) && defined(__GNUC__) && defined(__x86_64__) && defined(SYS_arch_prctl)
  constexpr unsigned kTiles = 1U << 24, kBf16Products = 1U << 22;  // in EDX of leaf 7
  constexpr unsigned kSavesState = 1U << 27;                       // in ECX of leaf 1
  constexpr unsigned kTileState = 3U << 17;                        // in the register XCR0
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTiles) == 0 || (d & kBf16Products) == 0)
    return false;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kSavesState) == 0) return false;
  __asm__ __volatile__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & kTileState) == kTileState;
#else
  return false;
#endif
}

}  // namespace

bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return has_tiles() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

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
