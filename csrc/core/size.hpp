// Conversion of counts: the core counts in std::int64_t, the standard library's containers in std::size_t.
#pragma once

#include <cstddef>
#include <cstdint>

namespace medvlad {

// `n` as an index or a size of a container. n must not be negative.
inline std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

}  // namespace medvlad
