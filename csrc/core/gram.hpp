// Interface of the fast Gram matrix of the linear SVM (csrc/simd/gram_tiles.hpp).
#pragma once

#include <cstdint>

namespace medvlad {

// Rows z_ij = x_ij - shift_j - along_i direction_j, computed in float64.
//
// Number j of row i of x lies at x[i * row + j * column]. x holds floats or, if is_double, doubles.
struct ShiftedRows {
  const void* x;
  bool is_double;
  std::int64_t n, d, row, column;
  const double *shift, *direction;  // (d,)
  const double* along;              // (n,)
};

// Adds approximations of the products z_i . z_j to gram[i * n + j], for all j >= i.
using GramKernel = void (*)(const ShiftedRows& rows, int n_threads, double* gram);

// The kernel of the instruction set that this module is compiled for. nullptr: it has none.
GramKernel gram_kernel();

}  // namespace medvlad
