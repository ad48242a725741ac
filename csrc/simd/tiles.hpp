// Products of bfloat16 tiles: AMX instructions, or the same written in plain C++ where the compiler has none.
//
// A tile is 1 KiB: 16 rows of 64 bytes. With rows x (16, 32) and columns c (16, 32) in bfloat16, one product
// adds x c^T to a tile of 16 x 16 float32 sums. Its operands are stored as
//
//   rows      x_r[j] at row r, number j                           (32 bfloat16 in each row)
//   columns   c_k[2 p], c_k[2 p + 1] at row p, numbers 2 k, 2 k + 1   (16 pairs in each row)
//
// so that a tile of either kind is contiguous. A matrix of n rows is a sequence of bands of 16 rows. A band
// is a sequence of tiles, one for each 32 dimensions. Both are padded with zeros.
//
// The instruction treats denormals as zeros and rounds sums to nearest. bf16 numbers have 8 significant bits,
// so their products are exact in float32.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

namespace medvlad {

namespace {  // each module keeps its own copy, compiled for its own instruction set

constexpr std::int64_t kTileSide = 16;   // rows of a tile, and columns of a tile of sums
constexpr std::int64_t kTileDepth = 32;  // dimensions of a tile of bfloat16
constexpr std::int64_t kTileNumbers = kTileSide * kTileDepth;
constexpr std::int64_t kTileStep = 64;  // bytes between the rows of a tile in memory

#if defined(__AMX_BF16__)

// In assembly, because the compilers' functions take the number of a register only as text.
//
// Gives this thread the tile registers, and hands them back when it is destroyed, because the operating
// system saves registers in use at each switch of threads. One at a time in a thread.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
  ~TileRegisters() { __asm__ volatile("tilerelease" ::: "memory"); }

  // Fill register kTo from memory; rows are `step` bytes apart. A step of 0 repeats one row.
  template <int kTo>
  void load(const void* from, std::int64_t step = kTileStep) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(step), "i"(kTo) : "memory");
  }
  template <int kFrom>
  void store(void* to, std::int64_t step) const {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(step), "i"(kFrom) : "memory");
  }
  template <int kTo>
  void clear() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTo));
  }
  // Sums kSums += rows kRows times columns kColumns.
  template <int kSums, int kRows, int kColumns>
  void multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kRows), "i"(kColumns));
  }
};

#else

// The same without the instructions, for tests on any processor.
class TileRegisters {
 public:
  template <int kTo>
  void load(const void* from, std::int64_t step = kTileStep) {
    const char* row = static_cast<const char*>(from);
    for (int r = 0; r < 16; ++r, row += step) std::memcpy(tiles_[kTo] + 16 * r, row, 64);
  }
  template <int kFrom>
  void store(void* to, std::int64_t step) const {
    char* row = static_cast<char*>(to);
    for (int r = 0; r < 16; ++r, row += step) std::memcpy(row, tiles_[kFrom] + 16 * r, 64);
  }
  template <int kTo>
  void clear() {
    std::memset(tiles_[kTo], 0, sizeof tiles_[kTo]);
  }
  template <int kSums, int kRows, int kColumns>
  void multiply() {
    for (int r = 0; r < 16; ++r) {
      float sums[16];
      std::memcpy(sums, tiles_[kSums] + 16 * r, sizeof sums);
      for (int pair = 0; pair < 16; ++pair) {
        const std::uint32_t x = tiles_[kRows][16 * r + pair];
        const float low = widened(x << 16), high = widened(x & kHigh);
        for (int k = 0; k < 16; ++k) {
          const std::uint32_t c = tiles_[kColumns][16 * pair + k];
          sums[k] = flushed(sums[k] + (low * widened(c << 16) + high * widened(c & kHigh)));
        }
      }
      std::memcpy(tiles_[kSums] + 16 * r, sums, sizeof sums);
    }
  }

 private:
  static constexpr std::uint32_t kHigh = 0xFFFF0000U, kExponent = 0x7F800000U;

  // The float32 of these bits. A denormal becomes zero.
  static float widened(std::uint32_t bits) {
    if ((bits & kExponent) == 0) bits = 0;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static float flushed(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return widened(bits);
  }

  std::uint32_t tiles_[8][256];
};

#endif

// The nearest bfloat16, ties to even. The value must be finite.
inline std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

inline float from_bf16(std::uint16_t value) {
  const std::uint32_t bits = std::uint32_t{value} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Number of tiles of d dimensions.
constexpr std::int64_t tiles_of(std::int64_t d) { return (d + kTileDepth - 1) / kTileDepth; }

// Place of number j of row r, in bfloat16 numbers, in a band of rows.
constexpr std::int64_t row_place(std::int64_t r, std::int64_t j) {
  return j / kTileDepth * kTileNumbers + r * kTileDepth + j % kTileDepth;
}

// Place of number j of column k in a band of columns.
constexpr std::int64_t column_place(std::int64_t k, std::int64_t j) {
  return j / kTileDepth * kTileNumbers + j % kTileDepth / 2 * kTileDepth + 2 * k + j % 2;
}

// A tile of rows as a tile of columns: pairs of numbers change places.
inline void transpose_tile(const std::uint16_t* from, std::uint16_t* to) {
  std::uint32_t in[kTileSide][kTileSide], out[kTileSide][kTileSide];
  std::memcpy(in, from, sizeof in);
  for (std::int64_t r = 0; r < kTileSide; ++r) {
    for (std::int64_t p = 0; p < kTileSide; ++p) out[p][r] = in[r][p];
  }
  std::memcpy(to, out, sizeof out);
}

// Registers 0 to 3 += two bands of rows times two bands of columns, over `n` tiles each. Register 2 i + j has
// rows i and columns j. `next_rows` and `next_columns` are the distances between the two bands in numbers.
// kRowBands and kColumnBands say how many bands there are, 1 or 2. `meanwhile(t)` is called once for each
// tile: other work that the processor can do while it multiplies.
template <int kRowBands, int kColumnBands, class Meanwhile>
inline void multiply_bands(TileRegisters& tiles, const std::uint16_t* rows, std::int64_t next_rows,
                           const std::uint16_t* columns, std::int64_t next_columns, std::int64_t n,
                           const Meanwhile& meanwhile) {
  for (std::int64_t t = 0; t < n; ++t, rows += kTileNumbers, columns += kTileNumbers) {
    meanwhile(t);
    tiles.load<4>(rows);
    tiles.load<6>(columns);
    tiles.multiply<0, 4, 6>();
    if constexpr (kColumnBands == 2) {
      tiles.load<7>(columns + next_columns);
      tiles.multiply<1, 4, 7>();
    }
    if constexpr (kRowBands == 2) {
      tiles.load<5>(rows + next_rows);
      tiles.multiply<2, 5, 6>();
      if constexpr (kColumnBands == 2) tiles.multiply<3, 5, 7>();
    }
  }
}

}  // namespace

}  // namespace medvlad
