// Conversion of std::vector to the core's Batch, for the test programs.
#pragma once

#include <cstdint>
#include <vector>

#include "core/vlad.hpp"

namespace medvlad::test {

inline Batch batch_of(const std::vector<float>& x, const std::vector<std::int64_t>& offsets,
                      const std::vector<float>& centers, std::int64_t k, std::int64_t d) {
  return {x.data(),
          offsets.back(),
          offsets.data(),
          static_cast<std::int64_t>(offsets.size()) - 1,
          centers.data(),
          k,
          d};
}

}  // namespace medvlad::test
