// The part of CUDA C++ that medvlad/backends/kernels needs, on the host: blocks run one after another, the
// threads of a block together, with barriers, shuffles and ballots.
//
// If CUDA_ON_HOST_THREADS is defined, the threads of a block are std::threads that meet at std::barriers.
// ThreadSanitizer then sees every missing __syncthreads. Otherwise they take turns on one thread, which is a
// hundred times as fast and enough to check the arithmetic.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#if defined(CUDA_ON_HOST_THREADS)
#include <barrier>
#include <thread>
#else
#include <ucontext.h>

#include <csetjmp>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // one block at a time
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 900

struct Index3 {
  unsigned x, y, z;
};

namespace host {

constexpr int kLanes = 32;
constexpr std::size_t kSlotBytes = 32;

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "cuda_on_host: %s\n", why);
  std::abort();
}

#if defined(CUDA_ON_HOST_THREADS)
using Barrier = std::barrier<>;
#else
// Switch to the next thread until all threads have arrived.
struct Barrier {
  explicit Barrier(int n) : expected(n) {}
  inline void arrive_and_wait();
  void arrive_and_drop() {
    --expected;
    if (expected > 0 && arrived == expected) open();
  }
  void open() {
    arrived = 0;
    ++generation;
  }
  int expected, arrived = 0;
  std::uint64_t generation = 0;
};
#endif

struct Warp {
  explicit Warp(int n) : barrier(n) {}
  Barrier barrier;
  // Values that the lanes exchange. Two sets take turns, so one barrier per exchange is enough.
  alignas(16) unsigned char slots[2][kLanes][kSlotBytes];
};

struct Thread {
  Index3 index;
  Index3 block;
  int lane;
  int turn = 0;
  Warp* warp;
  Barrier* all;
#if !defined(CUDA_ON_HOST_THREADS)
  bool begun = false, done = false;
  Barrier* waits_at = nullptr;  // the barrier at which it waits, and the generation in which it arrived
  std::uint64_t generation = 0;
  bool waits() const { return waits_at != nullptr && waits_at->generation == generation; }
  ucontext_t context;
  jmp_buf where;
  std::unique_ptr<unsigned char[]> stack;
#endif
};

#if defined(CUDA_ON_HOST_THREADS)
inline thread_local Thread* me;
#else
inline Thread* me;
inline std::vector<Thread>* everyone;
inline void (*body)(void*);
inline void* body_argument;
inline jmp_buf finished;

inline void resume(Thread& next);

inline void run_body() {
  body(body_argument);
  me->warp->barrier.arrive_and_drop();
  me->all->arrive_and_drop();
  me->done = true;
  for (std::size_t i = 1; i <= everyone->size(); ++i) {
    Thread& next = (*everyone)[(me->index.x + i) % everyone->size()];
    if (!next.done && !next.waits()) resume(next);
  }
  for (const Thread& one : *everyone) {
    if (!one.done) fail("a thread waits for one that has ended");
  }
  _longjmp(finished, 1);
}

inline void resume(Thread& next) {
  me = &next;
  if (next.begun) _longjmp(next.where, 1);
  next.begun = true;
  getcontext(&next.context);
  next.context.uc_stack.ss_sp = next.stack.get();
  next.context.uc_stack.ss_size = 256 << 10;
  next.context.uc_link = nullptr;
  makecontext(&next.context, run_body, 0);
  setcontext(&next.context);
}

inline void yield() {
  Thread* self = me;
  for (std::size_t i = 1; i < everyone->size(); ++i) {
    Thread& next = (*everyone)[(self->index.x + i) % everyone->size()];
    if (next.done || next.waits()) continue;
    if (_setjmp(self->where) == 0) resume(next);
    return;
  }
  fail("a thread waits for others that have ended, or wait elsewhere");
}

inline void Barrier::arrive_and_wait() {
  if (++arrived == expected) return open();
  me->waits_at = this;
  me->generation = generation;
  yield();
  me->waits_at = nullptr;
}
#endif

template <class Value>
Value& slot(int lane) {
  static_assert(sizeof(Value) <= kSlotBytes && std::is_trivially_copyable_v<Value>);
  return *reinterpret_cast<Value*>(me->warp->slots[me->turn][lane]);
}

// Pass `value` to the warp. slot<Value>(lane) holds the value of each lane until the next exchange.
template <class Value>
void exchange(const Value& value) {
  me->turn ^= 1;
  std::memcpy(me->warp->slots[me->turn][me->lane], &value, sizeof value);
  me->warp->barrier.arrive_and_wait();
}

// Denormals are zeros while it lives, as with CuPy's option -ftz=true for float32. This holds for float64 as
// well, but the kernels have no denormals of float64.
struct DenormalsAreZeros {
#if defined(__SSE__)
  unsigned before = _mm_getcsr();
  DenormalsAreZeros() { _mm_setcsr(before | 0x8040U); }
  ~DenormalsAreZeros() { _mm_setcsr(before); }
#endif
};

// Run one block of `n` threads of `call`.
template <class Call>
void run_block(Index3 block, int n, const Call& call) {
  if (n % kLanes != 0) fail("a block must be whole warps");
  Barrier all(n);
  std::vector<std::unique_ptr<Warp>> warps;
  for (int i = 0; i < n / kLanes; ++i) warps.push_back(std::make_unique<Warp>(kLanes));
  static std::vector<Thread> threads;
  if (static_cast<int>(threads.size()) != n) threads = std::vector<Thread>(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) {
    Thread& one = threads[static_cast<std::size_t>(i)];
    one.index = {static_cast<unsigned>(i), 0, 0};
    one.block = block;
    one.lane = i % kLanes;
    one.turn = 0;
    one.warp = warps[static_cast<std::size_t>(i / kLanes)].get();
    one.all = &all;
  }
#if defined(CUDA_ON_HOST_THREADS)
  std::vector<std::thread> running;
  for (Thread& one : threads) {
    running.emplace_back([&one, &call] {
      const DenormalsAreZeros flush;
      me = &one;
      call();
      one.warp->barrier.arrive_and_drop();
      one.all->arrive_and_drop();
    });
  }
  for (std::thread& one : running) one.join();
#else
  for (Thread& one : threads) {
    one.begun = one.done = false;
    one.waits_at = nullptr;
    if (!one.stack) one.stack = std::make_unique<unsigned char[]>(256 << 10);
  }
  everyone = &threads;
  body = [](void* argument) { (*static_cast<const Call*>(argument))(); };
  body_argument = const_cast<Call*>(&call);
  if (_setjmp(finished) == 0) resume(threads[0]);
#endif
}

template <class... Arguments, std::size_t... I>
void launch(void (*kernel)(Arguments...), Index3 grid, int threads, void** arguments,
            std::index_sequence<I...>) {
  const DenormalsAreZeros flush;
  const std::tuple<Arguments...> values{*static_cast<Arguments*>(arguments[I])...};
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      run_block({x, y, 0}, threads, [&] { std::apply(kernel, values); });
    }
  }
}

// `arguments` points at each argument, as for cuLaunchKernel.
template <class... Arguments>
void launch(void (*kernel)(Arguments...), unsigned grid_x, unsigned grid_y, int threads, void** arguments) {
  launch(kernel, {grid_x, grid_y, 1}, threads, arguments, std::index_sequence_for<Arguments...>{});
}

}  // namespace host

#define threadIdx (host::me->index)
#define blockIdx (host::me->block)

#define CUDA_ON_HOST_KERNEL(name)                                                                  \
  extern "C" void launch_##name(unsigned grid_x, unsigned grid_y, int threads, void** arguments) { \
    host::launch(name, grid_x, grid_y, threads, arguments);                                        \
  }

inline void __syncthreads() { host::me->all->arrive_and_wait(); }
inline void __syncwarp() { host::me->warp->barrier.arrive_and_wait(); }

template <class Value>
Value __shfl_xor_sync(unsigned, Value value, int mask) {
  host::exchange(value);
  return host::slot<Value>(host::me->lane ^ mask);
}

inline unsigned __ballot_sync(unsigned, bool value) {
  host::exchange(value);
  unsigned bits = 0;
  for (int lane = 0; lane < host::kLanes; ++lane) bits |= unsigned{host::slot<bool>(lane)} << lane;
  return bits;
}

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __popc(unsigned value) { return std::popcount(value); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline void __stcs(float* to, float value) { *to = value; }
inline int atomicOr(int* to, int bits) { return __atomic_fetch_or(to, bits, __ATOMIC_RELAXED); }
using std::copysign;
using std::fabs;
using std::fma;
using std::pow;
using std::sqrt;
