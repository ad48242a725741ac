// What the processor, and the operating system with it, can run.
#pragma once

#include <string>
#include <vector>

namespace medvlad {

// Names of the instruction-set levels that can run here, best first; "portable" is always the last.
std::vector<std::string> supported_levels();

}  // namespace medvlad
