// The points of F(4x4, 3x3): 0, a, -a, b, -b and infinity.
//
// Error of VGG16's features of real images, largest and root mean square, relative to the same of the
// features:
//
//   1, 2                5.3e-6  4.0e-6
//   1, 1/2              5.5e-6  4.1e-6
//   sqrt(1/2), sqrt(2)  2.4e-6  2.3e-6
//
// The last have squares that are exact and multiply to 1, and cost nothing: their multiplications are fused
// with additions that the others need too.
#pragma once

namespace medvlad {

inline constexpr double kPointA = 0.70710678118654752440, kPointB = 1.41421356237309504880;

}  // namespace medvlad
