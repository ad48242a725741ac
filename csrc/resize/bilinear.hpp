// Resizing with Pillow's bilinear filter, to the same numbers, several times as fast.
//
// Pillow resizes the rows first and then the columns, and rounds to 8 bits after each of both. For one axis:
//
//     scale = (end - start) / side,  s = max(scale, 1)      the filter widens when the image shrinks
//     c_j   = start + (j + 1/2) scale                       centre of place j of the result
//     w_ij  = max(0, 1 - |i + 1/2 - c_j| / s)               for the pixels i from c_j - s to c_j + s
//     out_j = (sum_i in_i round(2^22 w_ij / sum_i w_ij) + 2^21) >> 22
//
// The sums are of integers, so their order does not matter, and vectors of eight hold the same numbers.
// Source: Resample.c of Pillow 10.3 to 13.0.
#pragma once

#include <cstdint>

namespace medvlad {

// An image in rows without gaps.
struct Pixels {
  const std::uint8_t* data;
  std::int64_t width, height;
  int n_bytes;  // of a pixel: 1 (grey), 3 (RGB) or 4 (RGB and a byte that is not used)
};

// Resizes the part inside `box` (left, upper, right and lower end) to side x side pixels of 1 byte (grey) or
// 3 bytes. Returns false, and writes nothing, if the image is smaller than a vector.
bool resize_bilinear(const Pixels& pixels, const float box[4], std::int64_t side, std::uint8_t* square);

}  // namespace medvlad
