// VLAD on the CPU: assignment, summed residuals and normalisation over a ragged batch of descriptors.
//
// The mathematics stands in medvlad/backends/reference.py; this is how it is computed.
//
// - scores: blocks of rows times all centres, by the instruction set's own way (scorer.hpp)
//
// - labels: argmax of a block while it is in cache; near ties decided again exactly (assign.hpp, decide.hpp)
//
// - residuals: rows of an image ordered by cell, each cell summed in row order in float64 (cells.hpp)
//
// - vectors: power, intra-normalisation and L2 in float64, rounded to float32 once, written once (write.hpp)
//
// Threads share out images; the rows and then the cells of an image that is large are shared out themselves.
// No sum is ever cut, so every result is bitwise the same for any number of threads and any way of cutting
// the batch.
//
// Memory beyond the output: one packed copy of the centres where it fits the budget below, and for each
// thread the scores of a block and the residuals of an image where they fit; they are computed twice where
// they do not. A large image also takes 12 bytes a descriptor.
#pragma once

#include <cstdint>

#include "scorer.hpp"

namespace medvlad {

// What a call may allocate for each thread, the output apart.
inline constexpr std::int64_t kBytesPerThread = std::int64_t{4} << 20;

// Of which the packed centres may take so much.
inline std::int64_t pack_bytes(int n_threads) { return kBytesPerThread / 2 * n_threads; }

// Descriptors (n_rows, d) of n_images images (offsets has n_images + 1 entries) and centres (k, d),
// row-major. Everything is borrowed.
struct Batch {
  const float* x;
  std::int64_t n_rows;
  const std::int64_t* offsets;
  std::int64_t n_images;
  const float* centers;
  std::int64_t k;
  std::int64_t d;
};

// How to compute; no result depends on it.
struct Execution {
  Sgemm sgemm;
  int n_threads = 1;
  Method method = Method::automatic;
};

struct Normalisation {
  double power = 1.0;
  bool intra = false;
  bool l2 = true;
  bool mass = false;  // each residual divided by the weights in it, before all else
};

// Where results go. labels and counts may be null.
struct Output {
  float* vectors;                  // (n_images, k * d)
  bool zeroed = false;             // vectors holds zeros already, so empty cells need no writing
  std::int32_t* labels = nullptr;  // (n_rows)
  std::int64_t* counts = nullptr;  // (n_images, k)
};

// labels (n_rows): the nearest centre of each row. Offsets are not looked at.
void assign(const Batch& batch, const Execution& execution, std::int32_t* labels);

// Without any normalisation the vectors are the residuals (n_images, k, d).
void encode(const Batch& batch, const Execution& execution, const Normalisation& normalisation,
            const Output& output);

// Cells of rows that are known, and how much of a row is in each: both (n_rows, per_row). A weight of 0 is no
// membership.
struct Memberships {
  const std::int32_t* cells;
  const double* weights;
  std::int64_t per_row;
};

// As `encode`, with residuals sum w (x - c_k). Of the output only the vectors are written, and masses
// (n_images, k), the sums of the weights, where not null.
void encode_weighted(const Batch& batch, const Memberships& memberships, int n_threads,
                     const Normalisation& normalisation, const Output& output, double* masses);

}  // namespace medvlad
