// The Gram matrix of the linear SVM from products of bfloat16 tiles.
//
// Each number z is rounded to float32 and split into two bfloat16, z = hi + lo + e with |e| <= 2^-17 |z|:
// hi has 8 significant bits, and z - hi, which float32 holds exactly, is rounded to the 8 bits of lo. Then
//
//   z_i . z_j = hi_i . hi_j + hi_i . lo_j + lo_i . hi_j + terms below 2^-16 sum_k |z_ik z_jk|,
//
// if no number and no product is below the range of float32, where tiles take zero.
//
// The three products are exact in float32. They are summed in float32 over runs of kRunDepth dimensions, and
// the runs are summed in float64. The caller measures what remains of these errors and corrects it, see
// medvlad/svm/refinement.py.
//
// Memory. The pieces of one run of dimensions are kept for all rows, as tiles of rows and as tiles of
// columns. That is 8 bytes for each of n x kRunDepth numbers, whatever d is.
//
// Order of the loops. A task is a panel of kPanelRows rows times a panel of as many columns. It goes through
// the run in steps of kStepDepth dimensions: two bands of columns stay in the first level of the cache for a
// step while all bands of rows of the panel pass, and the panels stay in the second level. Each sum is added
// up in one fixed order, so the result does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/gram.hpp"
#include "core/large_buffer.hpp"
#include "core/parallel.hpp"
#include "tiles.hpp"

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr std::int64_t kRunDepth = 1024;                      // dimensions that float32 sums
constexpr std::int64_t kStepDepth = 256;                      // dimensions of a step
constexpr std::int64_t kStepTiles = kStepDepth / kTileDepth;  // tiles of a band in a step
constexpr std::int64_t kSteps = kRunDepth / kStepDepth;       // steps of a run
constexpr std::int64_t kPiece = kStepTiles * kTileNumbers;    // numbers of a band in a step: hi or lo
constexpr std::int64_t kPanelRows = 256;                      // rows of a task, and columns
constexpr std::int64_t kPanelBands = kPanelRows / kTileSide;

// The pieces of one run of dimensions. Step s of band b begins at ((s * bands + b) * 2) * kPiece: first hi,
// then lo.
class GramPieces {
 public:
  explicit GramPieces(std::int64_t n) : bands_((n + 2 * kTileSide - 1) / (2 * kTileSide) * 2) {
    rows_.reserve(2 * kSteps * bands_ * kPiece);
    columns_.reserve(2 * kSteps * bands_ * kPiece);
  }

  std::int64_t bands() const { return bands_; }
  std::uint16_t* rows(std::int64_t step, std::int64_t band) { return at(rows_, step, band); }
  std::uint16_t* columns(std::int64_t step, std::int64_t band) { return at(columns_, step, band); }

 private:
  std::uint16_t* at(LargeBuffer<std::uint16_t>& buffer, std::int64_t step, std::int64_t band) const {
    return buffer.data() + (step * bands_ + band) * 2 * kPiece;
  }

  std::int64_t bands_;
  LargeBuffer<std::uint16_t> rows_, columns_;
};

// z of the rows [first, first + 16) and the dimensions [begin, begin + kStepDepth), 0 beyond the last ones.
template <class Number>
void shifted_band(const ShiftedRows& of, std::int64_t first, std::int64_t begin,
                  float (&z)[kTileSide][kStepDepth]) {
  const std::int64_t n = std::clamp<std::int64_t>(of.n - first, 0, kTileSide);
  const std::int64_t d = std::clamp<std::int64_t>(of.d - begin, 0, kStepDepth);
  if (n < kTileSide || d < kStepDepth) std::memset(z, 0, sizeof z);
  if (n == 0 || d == 0) return;
  const Number* x = static_cast<const Number*>(of.x) + first * of.row + begin * of.column;
  const double* shift = of.shift + begin;
  const double* direction = of.direction + begin;
  const double* along = of.along + first;
  if (of.column == 1) {
    for (std::int64_t r = 0; r < n; ++r) {
      const Number* row = x + r * of.row;
      const double length = along[r];
      for (std::int64_t j = 0; j < d; ++j) {
        z[r][j] = static_cast<float>(static_cast<double>(row[j]) - shift[j] - length * direction[j]);
      }
    }
    return;
  }
  for (std::int64_t j = 0; j < d; ++j) {
    const Number* column = x + j * of.column;
    for (std::int64_t r = 0; r < n; ++r) {
      z[r][j] =
          static_cast<float>(static_cast<double>(column[r * of.row]) - shift[j] - along[r] * direction[j]);
    }
  }
}

template <class Number>
void split_band(const ShiftedRows& of, std::int64_t band, std::int64_t begin, GramPieces& pieces) {
  alignas(64) float z[kTileSide][kStepDepth];
  for (std::int64_t step = 0; step < kSteps; ++step) {
    shifted_band<Number>(of, band * kTileSide, begin + step * kStepDepth, z);
    std::uint16_t* rows = pieces.rows(step, band);
    for (std::int64_t t = 0; t < kStepTiles; ++t) {
      for (std::int64_t r = 0; r < kTileSide; ++r) {
        std::uint16_t* high = rows + t * kTileNumbers + r * kTileDepth;
        const float* from = z[r] + t * kTileDepth;
        for (std::int64_t j = 0; j < kTileDepth; ++j) {
          const std::uint16_t h = to_bf16(from[j]);
          high[j] = h;
          high[kPiece + j] = to_bf16(from[j] - from_bf16(h));
        }
      }
    }
    std::uint16_t* columns = pieces.columns(step, band);
    for (std::int64_t t = 0; t < 2 * kStepTiles; ++t) {
      transpose_tile(rows + t * kTileNumbers, columns + t * kTileNumbers);
    }
  }
}

// Registers 0 to 3 += the three products of two bands of rows and two bands of columns in one step.
inline void multiply_pieces(TileRegisters& tiles, const std::uint16_t* rows, const std::uint16_t* columns) {
  constexpr std::int64_t kNext = 2 * kPiece;  // from one band to the next
  for (std::int64_t t = 0; t < kStepTiles; ++t, rows += kTileNumbers, columns += kTileNumbers) {
    tiles.load<4>(rows);
    tiles.load<6>(columns);
    tiles.multiply<0, 4, 6>();
    tiles.load<7>(columns + kNext);
    tiles.multiply<1, 4, 7>();
    tiles.load<5>(rows + kNext);
    tiles.multiply<2, 5, 6>();
    tiles.multiply<3, 5, 7>();
    tiles.load<6>(columns + kPiece);
    tiles.multiply<0, 4, 6>();
    tiles.multiply<2, 5, 6>();
    tiles.load<7>(columns + kNext + kPiece);
    tiles.multiply<1, 4, 7>();
    tiles.multiply<3, 5, 7>();
    tiles.load<4>(rows + kPiece);
    tiles.load<6>(columns);
    tiles.multiply<0, 4, 6>();
    tiles.load<7>(columns + kNext);
    tiles.multiply<1, 4, 7>();
    tiles.load<5>(rows + kNext + kPiece);
    tiles.multiply<2, 5, 6>();
    tiles.multiply<3, 5, 7>();
  }
}

// Add the products of two panels to the matrix. `sums` has room for kPanelRows^2 numbers.
inline void multiply_panels(GramPieces& pieces, std::int64_t row_panel, std::int64_t column_panel,
                            std::int64_t n, float* sums, double* gram) {
  const std::int64_t row_band = row_panel * kPanelBands, column_band = column_panel * kPanelBands;
  const std::int64_t n_row_bands = std::min(kPanelBands, pieces.bands() - row_band);
  const std::int64_t n_column_bands = std::min(kPanelBands, pieces.bands() - column_band);
  const bool is_diagonal = row_panel == column_panel;
  {
    TileRegisters tiles;
    constexpr std::int64_t kRow = kPanelRows * static_cast<std::int64_t>(sizeof(float));
    for (std::int64_t step = 0; step < kSteps; ++step) {
      for (std::int64_t j = 0; j < n_column_bands; j += 2) {
        const std::uint16_t* columns = pieces.columns(step, column_band + j);
        const std::int64_t end = is_diagonal ? j + 2 : n_row_bands;
        for (std::int64_t i = 0; i < end; i += 2) {
          float* first = sums + i * kTileSide * kPanelRows + j * kTileSide;
          float* second = first + kTileSide * kPanelRows;
          if (step == 0) {
            tiles.clear<0>();
            tiles.clear<1>();
            tiles.clear<2>();
            tiles.clear<3>();
          } else {
            tiles.load<0>(first, kRow);
            tiles.load<1>(first + kTileSide, kRow);
            tiles.load<2>(second, kRow);
            tiles.load<3>(second + kTileSide, kRow);
          }
          multiply_pieces(tiles, pieces.rows(step, row_band + i), columns);
          tiles.store<0>(first, kRow);
          tiles.store<1>(first + kTileSide, kRow);
          tiles.store<2>(second, kRow);
          tiles.store<3>(second + kTileSide, kRow);
        }
      }
    }
  }
  const std::int64_t n_rows = std::min(n_row_bands * kTileSide, n - row_band * kTileSide);
  const std::int64_t n_columns = std::min(n_column_bands * kTileSide, n - column_band * kTileSide);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    double* to = gram + (row_band * kTileSide + r) * n + column_band * kTileSide;
    const float* from = sums + r * kPanelRows;
    for (std::int64_t c = is_diagonal ? r : 0; c < n_columns; ++c) to[c] += static_cast<double>(from[c]);
  }
}

inline void gram_of_tiles(const ShiftedRows& rows, int n_threads, double* gram) {
  GramPieces pieces(rows.n);
  LargeBuffer<float> sums;
  sums.reserve(n_threads * kPanelRows * kPanelRows);
  const std::int64_t panels = (pieces.bands() + kPanelBands - 1) / kPanelBands;
  for (std::int64_t begin = 0; begin < rows.d; begin += kRunDepth) {
    parallel_for(pieces.bands(), n_threads, [&](std::int64_t band, int) {
      (rows.is_double ? split_band<double> : split_band<float>)(rows, band, begin, pieces);
    });
    // The panels of the upper triangle, column by column: task j (j + 1) / 2 + i has the rows i <= j.
    parallel_for(panels * (panels + 1) / 2, n_threads, [&](std::int64_t task, int worker) {
      std::int64_t j = 0;
      while ((j + 1) * (j + 2) / 2 <= task) ++j;
      multiply_panels(pieces, task - j * (j + 1) / 2, j, rows.n,
                      sums.data() + worker * kPanelRows * kPanelRows, gram);
    });
  }
}

}  // namespace

}  // namespace medvlad
