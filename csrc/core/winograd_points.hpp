// The points of F(4x4, 3x3): 0, a, -a, b, -b and infinity.
//
// Those that need no multiplication are not the worst: the largest error of VGG16's features, relative to the
// largest feature, is 5e-6 with 1 and 2.
#pragma once

namespace medvlad {

inline constexpr float kPointA = 1.0F, kPointB = 2.0F;

}  // namespace medvlad
