// From stored GGUF blocks to the packed form of formats.h.
#pragma once

#include <span>

#include "kernels.h"
#include "memory.h"
#include "parallel.h"

namespace samovar {

// A packed weight, or a stack of weights of one shape and format (the experts of a layer). Until memory is given to it, its view's
// pointers are null.
struct PackedLinear {
  WeightView view;     // of the first of the stack
  int64_t n_stacked;   // 1 for a weight by itself
  bool has_order;      // each weight its own
  Piece memory;        // none where it lies in memory of the caller's
  int64_t size_bytes;  // payloads, heads, scales, row scales and orders of all, each padded to 64 bytes, in this order

  PackedLinear(const Format& format, int64_t n_out, int64_t n_in, int64_t n_stacked = 1, bool has_order = false);
  bool is_packed() const { return view.payload != nullptr; }
  const uint8_t* data() const { return view.payload; }
  // Point at `size_bytes` of packed weights that outlive this; 64-byte aligned, with at least 4 KiB readable behind them.
  void adopt(const uint8_t* data);
  // Member `index` of the stack, below n_stacked.
  WeightView member(int64_t index) const;
};

// Whether all n numbers are inputs of a row of n.
bool is_order(const int32_t* order, int64_t n);

// Which members of a stack are filled: `stored` holds n_out rows of n_in values for each of them, exactly (the caller has checked),
// in the order of inputs `order` [n_in], which is null where the stack has none. `codebook` is that of the type they are stored in.
struct Members {
  int64_t first, count;
  std::span<const uint8_t> stored;
  const int32_t* order = nullptr;
  const uint8_t* codebook = nullptr;
};

// Fill members of `out`, stored in its format. Memory comes from the arena, for all of the stack at once. Throws std::bad_alloc.
// Returns whether all scales are finite (values of float types are not looked at); it is of no use otherwise.
bool pack(PackedLinear& out, const Members& members, Arena& arena, ThreadPool& pool);

// Fill members of the int4 weight `out` from rows stored in `format`. Returns whether all values are finite; it is of no use
// otherwise.
bool pack_int4(PackedLinear& out, const Format& format, const Members& members, const Kernels& kernels, Arena& arena,
               ThreadPool& pool);

}  // namespace samovar
