// Which kernel tables this build holds and this processor can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace samovar {

// Names of usable instruction sets, best last; never empty (`scalar` runs everywhere).
std::vector<std::string> available_isas();

// What a user should know of an instruction set that this processor has and that is not used; empty if nothing.
std::string isa_warning();

// The table of an available instruction set, or nullptr.
const Kernels* find_kernels(const std::string& isa);

}  // namespace samovar
