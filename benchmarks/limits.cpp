// Measure the limits of this machine: float32 multiply-adds, bfloat16 dot products, and bytes to and from memory.
//
// `limits full|quick THREADS...` prints JSON {"THREADS": {"name": rate}}. Each rate is the best of a few
// repetitions, because it is a bound. All threads start together, and the slowest one ends the measurement.

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

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
volatile float sink;
volatile float factor = 0.999f, addend = 0.001f;

// Independent sums hide the latency of a multiply-add. Their number is enough for two units of latency 4 or 5, and
// fits into the registers. The compiler contracts a * b + c within one expression.
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

double read_memory(const char* begin, const char* end) {
  Word8 sums[4] = {};
  for (const char* at = begin; at + sizeof sums <= end; at += sizeof sums) {
    const auto* words = reinterpret_cast<const Word8*>(at);
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

}  // namespace

int main(int count, char** words) {
  const bool quick = count < 2 || std::strcmp(words[1], "quick") == 0;
  const int64_t steps = quick ? 10'000 : 20'000'000;
  const int repetitions = quick ? 1 : 5;
  // Far larger than any cache, so that memory is measured.
  const size_t bytes = quick ? size_t(1) << 22 : size_t(1) << 30;
  char* memory = static_cast<char*>(std::aligned_alloc(4096, bytes));
  if (!memory) return std::fputs("no memory for the bandwidth test\n", stderr), 1;
  std::memset(memory, 1, bytes);

  std::printf("{");
  for (int a = 2; a < count; ++a) {
    const int n = std::atoi(words[a]);
    if (n < 1) return std::fputs("a number of threads must be positive\n", stderr), 1;
    const size_t share = bytes / n / 4096 * 4096;
    const auto part = [&](auto function) {
      return [=](int t) { return function(memory + t * share, memory + (t + 1) * share); };
    };
    const char* instructions = "baseline";
    double (*fma)(int64_t) = fma_baseline;
    double bf16 = 0, stream = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
      fma = fma_avx512, instructions = "AVX-512";
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      fma = fma_avx2, instructions = "AVX2";
    }
    if (__builtin_cpu_supports("avx512bf16"))
      bf16 = rate(n, repetitions, [&](int) { return bf16_dot(steps); });
    stream = rate(n, repetitions, part(stream_memory));
#endif
    const double fused = rate(n, repetitions, [&](int) { return fma(steps); });
    const double read = rate(n, repetitions, part(read_memory));
    const double write = rate(n, repetitions, part(write_memory));
    std::printf("%s\"%d\": {\"instructions\": \"%s\", \"fma_float32_gflops\": %.1f, ", a > 2 ? ", " : "", n,
                instructions, fused / 1e9);
    if (bf16 > 0) std::printf("\"dot_bfloat16_gflops\": %.1f, ", bf16 / 1e9);
    if (stream > 0) std::printf("\"write_streaming_gb_s\": %.2f, ", stream / 1e9);
    std::printf("\"read_gb_s\": %.2f, \"write_gb_s\": %.2f}", read / 1e9, write / 1e9);
  }
  std::printf("}\n");
  std::free(memory);
}
