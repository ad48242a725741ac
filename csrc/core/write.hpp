// Writing of results: out = float32(scale * v), rounded once from float64.
//
// A large output is written past the cache. Otherwise the cache would read every line before it is
// overwritten.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes64.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace medvlad {

namespace {

// Store 16 floats at `to`. If `streamed`, they bypass the cache, and `to` must be aligned to 16 bytes.
inline void put(const float* values, float* to, bool streamed) {
#if defined(__AVX512F__)
  if (streamed && reinterpret_cast<std::uintptr_t>(to) % 64 == 0) {
    _mm512_stream_ps(to, _mm512_loadu_ps(values));
    return;
  }
#endif
#if defined(__SSE2__)
  if (streamed) {
    for (int j = 0; j < 16; j += 4) _mm_stream_ps(to + j, _mm_loadu_ps(values + j));
    return;
  }
#else
  static_cast<void>(streamed);
#endif
  std::memcpy(to, values, 16 * sizeof(float));
}

inline bool on_16_bytes(const float* to) { return reinterpret_cast<std::uintptr_t>(to) % 16 == 0; }

// out = float32(scale * v)
inline void write_scaled(const double* v, double scale, std::int64_t d, float* out, bool streamed) {
  streamed = streamed && on_16_bytes(out);
  const Lanes64 factor = broadcast(scale);
  std::int64_t j = 0;
  for (; j + 16 <= d; j += 16) {
    float values[16];
    narrow(load(v + j) * factor, values);
    narrow(load(v + j + 8) * factor, values + 8);
    put(values, out + j, streamed);
  }
  for (; j < d; ++j) out[j] = static_cast<float>(v[j] * scale);
}

inline void write_zeros(std::int64_t n, float* out, bool streamed) {
  streamed = streamed && on_16_bytes(out);
  constexpr float kZeros[16] = {};
  std::int64_t j = 0;
  for (; j + 16 <= n; j += 16) put(kZeros, out + j, streamed);
  for (; j < n; ++j) out[j] = 0.0F;
}

// Make the streamed stores before this call visible to other threads before the stores after it.
inline void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace

}  // namespace medvlad
