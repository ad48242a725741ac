// VLAD on the CPU: assignment, summed residuals and normalisation over a ragged batch of descriptors.
//
// The mathematics stands in medvlad/backends/reference.py; this is how it is computed.
//
//   scores      blocks of rows times all centres by sgemm (float32), -|c|^2/2 already in place
//   labels      argmax of a block while it is in cache; near ties decided again exactly (decide.hpp),
//               so labels do not depend on the BLAS, the block or the number of threads
//   sums        rows of an image gathered by label, each cell summed in row order in float64;
//               V_k = sum - n_k c_k, normalised in float64, cast to float32 once
//
// An image of more than kChunkRows descriptors is cut into chunks of that fixed size, which are summed in
// order. So every result is bitwise the same for any number of threads and any way of cutting the batch.
#pragma once

#include <cstdint>

#include "sgemm.hpp"

namespace medvlad {

inline constexpr std::int64_t kChunkRows = 8192;

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

struct Normalisation {
  double power = 1.0;
  bool intra = false;
  bool l2 = true;
};

// labels (n_rows): the nearest centre of each row. Offsets are not looked at.
void assign(const Batch& batch, Sgemm sgemm, int n_threads, std::int32_t* labels);

// residuals (n_images, k, d) and counts (n_images, k).
void aggregate(const Batch& batch, Sgemm sgemm, int n_threads, float* residuals, std::int64_t* counts);

// encoded (n_images, k * d).
void encode(const Batch& batch, Sgemm sgemm, int n_threads, const Normalisation& normalisation,
            float* encoded);

}  // namespace medvlad
