// Properties of the processor: instruction sets that it and the operating system support, and its cache size.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace medvlad {

// Names of the instruction-set levels that can run here, best first. The last one is always "portable". For
// "amx" the operating system must also agree, which only may_use_tiles finds out.
std::vector<std::string> supported_levels();

// Whether the processor has bfloat16 tiles (AMX), and the operating system lets this process use them. Linux
// must be asked before the first use. Threads and children of the process inherit its answer. It cannot be
// taken back, and from then on alternative stacks of signals must have room for the tiles (11 KiB). So call
// this only if tiles are going to be used.
bool may_use_tiles();

// Size of a core's second-level cache in bytes. If the system does not report it, a usual size.
std::int64_t second_level_cache();

}  // namespace medvlad
