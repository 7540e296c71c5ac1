// From stored GGUF blocks to the packed form of formats.h.
#pragma once

#include <span>

#include "kernels.h"
#include "memory.h"
#include "parallel.h"

namespace samovar {

// A packed weight and the memory it lies in.
struct PackedLinear {
  WeightView view;
  Piece memory;
  int64_t size_bytes;
};

// `stored` holds n_out rows of n_in values in `format`, exactly (the caller has checked). Throws std::bad_alloc.
PackedLinear pack(const Format& format, std::span<const uint8_t> stored, int64_t n_out, int64_t n_in, Arena& arena,
                  ThreadPool& pool);

}  // namespace samovar
