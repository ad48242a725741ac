// The only BLAS routine that the core uses. It is a function pointer, so that the caller chooses the library.
#pragma once

#include <cstdint>

namespace medvlad {

// c (m x n) = a (m x d) * b (n x d)^T + beta * c. All matrices are row-major without padding. It should use
// one thread.
using Sgemm = void (*)(std::int64_t m, std::int64_t n, std::int64_t d, const float* a, const float* b,
                       float beta, float* c);

// Name of the Python capsule that carries an Sgemm from _blas.pyx to the bindings.
inline constexpr const char* kSgemmCapsule = "medvlad.sgemm";

}  // namespace medvlad
