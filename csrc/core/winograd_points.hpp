// The interpolation points of Winograd's F(4x4, 3x3): 0, a, -a, b, -b and infinity (convnet.hpp).
//
// Their choice decides the rounding error. Measured relative error of VGG16 features of real images:
//
//   a, b                largest  root mean square
//   1, 2                5.3e-6   4.0e-6
//   1, 1/2              5.5e-6   4.1e-6
//   sqrt(1/2), sqrt(2)  2.4e-6   2.3e-6
//
// The last pair is used. Its squares are exact and their product is 1. Its multiplications cost nothing,
// because they are fused with additions that the other points need as well.
#pragma once

namespace medvlad {

inline constexpr double kPointA = 0.70710678118654752440, kPointB = 1.41421356237309504880;

}  // namespace medvlad
