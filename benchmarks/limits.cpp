// Measure the limits of this machine: float32 multiply-adds, bfloat16 dot products and tiles, and bytes to
// and from memory.
//
// `limits full|quick BYTES THREADS...` prints JSON {"THREADS": {"name": rate}}. Each rate is the best of a
// few repetitions, because it is a bound. All threads start together, and the slowest one ends the
// measurement.
//
// Bytes are counted twice: in an array far larger than any cache (read_gb_s, write_gb_s,
// write_streaming_gb_s), and in an array of BYTES bytes, the size of a problem that is timed
// (problem_read_gb_s, problem_write_gb_s). A part of the second one may stay in a cache, as it may in the
// timed problem. Reading is measured with and without software prefetching, and writing with and without
// streaming stores; the faster one of each is the bound of the problem.
//
// Matrix tiles (AMX) need a permission of Linux. "amx" says why they were not measured.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
// GCC 11 and clang 12 know the tile instructions.
#if defined(__x86_64__) && defined(__linux__) && \
    ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define HAS_TILE_INTRINSICS 1
#else
#define HAS_TILE_INTRINSICS 0
#endif

namespace {

using Clock = std::chrono::steady_clock;
volatile float sink;
volatile float factor = 0.999f, addend = 0.001f;

// Independent sums hide the latency of a multiply-add. Their number is enough for two units of latency 4 or
// 5, and fits into the registers. The compiler contracts a * b + c within one expression.
template <class Vector, int n_sums>
[[gnu::always_inline]] inline double multiply_add(int64_t steps) {
  constexpr int lanes = sizeof(Vector) / sizeof(float);
  Vector sums[n_sums], f, a;
  for (int i = 0; i < lanes; ++i) f[i] = factor, a[i] = addend;
  for (int s = 0; s < n_sums; ++s) sums[s] = a * float(s);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int s = 0; s < n_sums; ++s) sums[s] = sums[s] * f + a;
  }
  for (int s = 1; s < n_sums; ++s) sums[0] += sums[s];
  sink = sums[0][0];
  return 2.0 * lanes * n_sums * double(steps);
}

typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float16 __attribute__((vector_size(64)));
typedef uint64_t Word8 __attribute__((vector_size(64)));

double fma_baseline(int64_t steps) { return multiply_add<Float4, 12>(steps); }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) double fma_avx2(int64_t steps) { return multiply_add<Float8, 12>(steps); }
__attribute__((target("avx512f"))) double fma_avx512(int64_t steps) {
  return multiply_add<Float16, 20>(steps);
}

__attribute__((target("avx512f,avx512bf16"))) double bf16_dot(int64_t steps) {
  constexpr int n_sums = 20;
  __m512 sums[n_sums];
  const __m512 start = _mm512_set1_ps(factor);
  const __m512bh f = _mm512_cvtne2ps_pbh(start, start);
  for (int s = 0; s < n_sums; ++s) sums[s] = _mm512_set1_ps(addend * float(s));
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int s = 0; s < n_sums; ++s) sums[s] = _mm512_dpbf16_ps(sums[s], f, f);
  }
  for (int s = 1; s < n_sums; ++s) sums[0] = _mm512_add_ps(sums[0], sums[s]);
  sink = reinterpret_cast<const float*>(sums)[0];
  return 2.0 * 32 * n_sums * double(steps);
}
#endif

#if HAS_TILE_INTRINSICS
struct TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Four independent accumulators (tiles 0 to 3) hide the latency. Each step multiplies 16 x 32 by 32 x 16
// numbers four times, from tiles that stay loaded.
__attribute__((target("amx-tile,amx-bf16"))) double amx_tiles(int64_t steps) {
  alignas(64) static const TileShapes shapes;
  alignas(64) uint16_t numbers[16 * 32];
  alignas(64) float sums[16 * 16];
  for (auto& number : numbers) number = 0x3f80;  // 1 in bfloat16
  _tile_loadconfig(&shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, numbers, 64);
  _tile_loadd(5, numbers, 64);
  _tile_loadd(6, numbers, 64);
  _tile_loadd(7, numbers, 64);
  for (int64_t step = 0; step < steps; ++step) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(3, sums, 64);
  _tile_release();
  sink = sums[0];
  return 4.0 * 2 * 16 * 16 * 32 * double(steps);
}
#endif

// Return why matrix tiles cannot be measured, or an empty text. Threads that start later inherit the
// permission.
std::string why_no_amx() {
#if HAS_TILE_INTRINSICS
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16) == 0 || (d & tile) == 0)
    return "absent: the processor does not report amx_bf16";
  constexpr long request_permission = 0x1023, tile_data = 18;
  if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0)
    return "absent: the kernel refuses permission for tile data";
  return "";
#elif defined(__x86_64__)
  return "not measured: the compiler is too old";
#else
  return "absent: the processor is not x86-64";
#endif
}

// Software prefetching keeps more lines on their way than the processor's own prefetcher alone.
template <int ahead>
double read_memory(const char* begin, const char* end) {
  Word8 sums[4] = {};
  for (const char* at = begin; at + sizeof sums <= end; at += sizeof sums) {
    const auto* words = reinterpret_cast<const Word8*>(at);
    if constexpr (ahead > 0)
      for (int i = 0; i < 4; ++i) __builtin_prefetch(at + ahead + 64 * i);
    for (int i = 0; i < 4; ++i) sums[i] += words[i];
  }
  sink = float((sums[0] + sums[1] + sums[2] + sums[3])[0]);
  return double(end - begin);
}

double write_memory(char* begin, char* end) {
  const Word8 value = {1, 2, 3, 4, 5, 6, 7, 8};
  for (char* at = begin; at + sizeof value <= end; at += sizeof value) {
    *reinterpret_cast<Word8*>(at) = value;
    asm volatile("" ::: "memory");  // or the loop becomes a memset, which may choose streaming stores
  }
  return double(end - begin);
}

#if defined(__x86_64__)
double stream_memory(char* begin, char* end) {
  const __m128i value = _mm_set_epi64x(1, 2);
  for (char* at = begin; at + 64 <= end; at += 64)
    for (int i = 0; i < 64; i += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(at + i), value);
  _mm_sfence();
  return double(end - begin);
}
#endif

// Return the best rate of `repetitions`, in which all threads run `work(thread)` at once.
double rate(int n_threads, int repetitions, const std::function<double(int)>& work) {
  double best = 0;
  for (int r = 0; r < repetitions; ++r) {
    std::atomic<int> waiting{n_threads};
    std::vector<double> done(n_threads);
    std::vector<Clock::time_point> begin(n_threads), end(n_threads);
    std::vector<std::thread> threads;
    for (int t = 0; t < n_threads; ++t)
      threads.emplace_back([&, t] {
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        begin[t] = Clock::now();
        done[t] = work(t);
        end[t] = Clock::now();
      });
    for (auto& thread : threads) thread.join();
    double total = 0;
    for (double part : done) total += part;
    const std::chrono::duration<double> seconds =
        *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
    best = std::max(best, total / seconds.count());
  }
  return best;
}

// Return memory with huge pages, as NumPy asks for. All of it is written.
char* new_memory(size_t bytes) {
  constexpr size_t huge = size_t(1) << 21;
  char* memory = static_cast<char*>(std::aligned_alloc(huge, (bytes + huge - 1) / huge * huge));
  if (!memory) return nullptr;
#if defined(__linux__)
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  std::memset(memory, 1, bytes);
  return memory;
}

}  // namespace

int main(int count, char** words) {
  const bool quick = count < 2 || std::strcmp(words[1], "quick") == 0;
  const int64_t steps = quick ? 10'000 : 20'000'000;
  const int repetitions = quick ? 1 : 5;
  // Far larger than any cache, so that memory is measured.
  const size_t large = quick ? size_t(1) << 22 : size_t(1) << 30;
  const size_t problem = count < 3 ? 0 : size_t(std::atoll(words[2]));
  if (problem < (1u << 16) || problem > large)
    return std::fprintf(stderr, "BYTES must be 65536 to %zu\n", large), 1;
  char* memory = new_memory(large);
  if (!memory) return std::fputs("no memory for the bandwidth test\n", stderr), 1;
  const std::string no_amx = why_no_amx();

  std::printf("{");
  for (int a = 3; a < count; ++a) {
    const int n = std::atoi(words[a]);
    if (n < 1) return std::fputs("a number of threads must be positive\n", stderr), 1;
    // Each thread has its own part. Small arrays are passed over several times.
    const auto bandwidth = [&](size_t bytes, auto function) {
      const size_t share = bytes / n / 4096 * 4096;
      const size_t passes = quick ? 1 : std::max<size_t>(1, (large / 2) / bytes);
      return rate(n, repetitions,
                  [=](int t) {
                    double done = 0;
                    for (size_t p = 0; p < passes; ++p)
                      done += function(memory + t * share, memory + (t + 1) * share);
                    return done;
                  }) /
             1e9;
    };
    const char* instructions = "baseline";
    double (*fma)(int64_t) = fma_baseline;
    double bf16 = 0, tiles = 0, stream = 0, problem_stream = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
      fma = fma_avx512, instructions = "AVX-512";
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      fma = fma_avx2, instructions = "AVX2";
    }
    if (__builtin_cpu_supports("avx512bf16"))
      bf16 = rate(n, repetitions, [&](int) { return bf16_dot(steps); });
    stream = bandwidth(large, stream_memory);
    problem_stream = bandwidth(problem, stream_memory);
#endif
#if HAS_TILE_INTRINSICS
    if (no_amx.empty()) tiles = rate(n, repetitions, [&](int) { return amx_tiles(steps / 4); });
#endif
    const double fused = rate(n, repetitions, [&](int) { return fma(steps); });
    const auto read = [&](size_t bytes) {
      return std::max(bandwidth(bytes, read_memory<0>), bandwidth(bytes, read_memory<2048>));
    };
    std::printf("%s\"%d\": {\"instructions\": \"%s\", \"fma_float32_gflops\": %.1f, ", a > 3 ? ", " : "", n,
                instructions, fused / 1e9);
    if (bf16 > 0) std::printf("\"dot_bfloat16_gflops\": %.1f, ", bf16 / 1e9);
    if (tiles > 0) std::printf("\"amx_bfloat16_gflops\": %.1f, ", tiles / 1e9);
    if (!no_amx.empty()) std::printf("\"amx\": \"%s\", ", no_amx.c_str());
    if (stream > 0) std::printf("\"write_streaming_gb_s\": %.2f, ", stream);
    std::printf("\"read_gb_s\": %.2f, \"write_gb_s\": %.2f, ", read(large), bandwidth(large, write_memory));
    std::printf("\"problem_read_gb_s\": %.2f, \"problem_write_gb_s\": %.2f, \"problem_bytes\": %zu}",
                read(problem), std::max(problem_stream, bandwidth(problem, write_memory)), problem);
  }
  std::printf("}\n");
  std::free(memory);
}
