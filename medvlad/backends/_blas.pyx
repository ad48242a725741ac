# cython: language_level=3, freethreading_compatible=True
# distutils: language=c++
"""SciPy's sgemm as a plain function pointer for the portable C++ core.

SciPy's BLAS may count in 32 or 64 bit integers, and its declaration has changed between releases; the C++
template below takes whichever integer the function has, so nothing here depends on the release.
"""

from cpython.pycapsule cimport PyCapsule_New
from scipy.linalg.cython_blas cimport sgemm

cdef extern from "core/sgemm.hpp" namespace "medvlad" nogil:
    ctypedef void (*Sgemm)(long long, long long, long long, const float*, const float*, float, float*)
    const char* kSgemmCapsule

cdef extern from * nogil:
    """
    #include <cstdint>

    // Row-major c (m x n) = a (m x d) b (n x d)^T + beta c, that is c^T = b a^T in BLAS' column-major terms.
    template <class Int>
    static void medvlad_row_major(void (*gemm)(char*, char*, Int*, Int*, Int*, float*, float*, Int*, float*,
                                               Int*, float*, float*, Int*),
                                  std::int64_t m, std::int64_t n, std::int64_t d, const float* a,
                                  const float* b, float beta, float* c) {
      char transposed = 'T', plain = 'N';
      Int rows = static_cast<Int>(n), columns = static_cast<Int>(m), depth = static_cast<Int>(d);
      float one = 1.0F;
      gemm(&transposed, &plain, &rows, &columns, &depth, &one, const_cast<float*>(b), &depth,
           const_cast<float*>(a), &depth, &beta, c, &rows);
    }
    """
    void medvlad_row_major(...) noexcept


cdef void row_major_sgemm(long long m, long long n, long long d, const float* a, const float* b, float beta,
                          float* c) noexcept nogil:
    medvlad_row_major(sgemm, m, n, d, a, b, beta, c)


def sgemm_capsule():
    """Return the capsule that the C++ bindings take as `sgemm`."""
    return PyCapsule_New(<void*>row_major_sgemm, kSgemmCapsule, NULL)
