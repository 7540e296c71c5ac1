// A self-check of the AMX kernels, made before they are first used: a wrong product must not become an answer.
#pragma once

#include "kernels.h"

namespace samovar {

// Whether `amx` gives the bits of `vectors` on small products that take every path through the tiles: one scale and two, wide
// codes, one and two tiles of rows, one and two row groups, left-over rows. Takes well under a millisecond.
bool amx_agrees(const Kernels& amx, const Kernels& vectors);

}  // namespace samovar
