// VLAD on the CPU: assignment, summed residuals and normalisation over a ragged batch of descriptors.
//
// For each image, with descriptors x, centres c_k and nearest centre k(x):
//
//   V_k = sum over x with k(x) = k of (x - c_k)           residuals
//   V_k <- sign(V_k) |V_k|^power                          signed power, element by element
//   V_k <- V_k / |V_k|                                    if intra; a V_k that is rounding only becomes zero
//   V   <- V / |V|                                        if l2
//
// medvlad/backends/reference.py is the specification. The steps here are:
//
// - scores: blocks of rows times all centres, by the scorer of the instruction set (scorer.hpp)
//
// - labels: argmax of a block while it is in cache; near ties are decided exactly (assign.hpp, decide.hpp)
//
// - residuals: rows of an image sorted by cell, each cell summed in row order in float64 (cells.hpp)
//
// - vectors: normalised in float64, rounded to float32 once and written once (write.hpp)
//
// Small images are distributed over threads. The rows, and then the cells, of a large image are distributed.
// One thread computes each sum in a fixed order, so every result is bitwise the same for any number of
// threads and for any way of dividing the batch.
//
// Memory in addition to the output: packed copies of the centres if they fit the budget below; for each
// thread the scores of a block, and the residuals of an image if they fit. Residuals that do not fit are
// computed twice. A large image also takes 12 bytes for each descriptor.
#pragma once

#include <cstdint>

#include "scorer.hpp"

namespace medvlad {

// Maximum memory that a call allocates for each thread, in addition to the output.
inline constexpr std::int64_t kBytesPerThread = std::int64_t{6} << 20;

// The part of that memory that one packed copy of the centres may take. A second copy, of half the size, is
// made if blocks of rows take different methods.
inline std::int64_t pack_bytes(int n_threads) { return (std::int64_t{2} << 20) * n_threads; }

// The part of that memory that the residuals of an image may take.
inline constexpr std::int64_t kResidualBytes = std::int64_t{1} << 20;

// Descriptors x (n_rows, d) of n_images images, offsets (n_images + 1) and centres (k, d), all row-major. The
// arrays must outlive the batch.
struct Batch {
  const float* x;
  std::int64_t n_rows;
  const std::int64_t* offsets;
  std::int64_t n_images;
  const float* centers;
  std::int64_t k;
  std::int64_t d;
};

// How to compute. No result depends on it.
struct Execution {
  Sgemm sgemm;
  int n_threads = 1;
  Method method = Method::automatic;
};

struct Normalisation {
  double power = 1.0;
  bool intra = false;
  bool l2 = true;
  bool mass = false;  // first of all, divide each cell's residual by the cell's mass
};

// Arrays for the results. labels and counts may be null.
struct Output {
  float* vectors;       // (n_images, k * d)
  bool zeroed = false;  // whether `vectors` already holds zeros, so that empty cells are not written
  std::int32_t* labels = nullptr;  // (n_rows)
  std::int64_t* counts = nullptr;  // (n_images, k)
};

// No row of a batch holds NaN or infinity.
inline constexpr std::int64_t kAllFinite = -1;

// As before, but a number of a vector without norm may be beyond float32, and is infinite then.
inline constexpr std::int64_t kMayOverflow = -2;

// Write the nearest centre of each row to labels (n_rows). The offsets are ignored.
//
// Returns the first row that holds NaN or infinity, or kAllFinite. With such a row, what is written is
// undefined. The same holds for `encode`.
std::int64_t assign(const Batch& batch, const Execution& execution, std::int32_t* labels);

// Write the VLAD vector of each image. Without normalisation the vectors are the residuals (n_images, k, d).
// Returns what `assign` returns, or kMayOverflow if all rows are finite.
std::int64_t encode(const Batch& batch, const Execution& execution, const Normalisation& normalisation,
                    const Output& output);

// Given cells of each row, the weight w of the row in each of them, and the scale s of its residual, all
// (n_rows, per_row). Entries of weight 0 are ignored. If `scales` is null, every scale is 1.
struct Memberships {
  const std::int32_t* cells;
  const double* weights;
  const double* scales;
  std::int64_t per_row;
};

// Like `encode`, with the residuals V_k = sum w s (x - c_k). Only the vectors of the output are written. The
// mass of a cell is the sum of its w, without s. If `masses` (n_images, k) is not null, it receives them.
void encode_weighted(const Batch& batch, const Memberships& memberships, int n_threads,
                     const Normalisation& normalisation, const Output& output, double* masses);

}  // namespace medvlad
