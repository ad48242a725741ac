// The points of F(4x4, 3x3): 0, a, -a, b, -b and infinity.
#pragma once

namespace medvlad {

#ifndef PA
#define PA 1.0F
#define PB 2.0F
#endif
inline constexpr float kPointA = PA, kPointB = PB;

}  // namespace medvlad
