// What the processor, and the operating system with it, can run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace medvlad {

// Names of the instruction-set levels that can run here, best first; "portable" is always the last.
std::vector<std::string> supported_levels();

// Bytes of a core's second-level cache, or what is usual where nobody says.
std::int64_t second_level_cache();

}  // namespace medvlad
