// From stored GGUF blocks to the packed form of formats.h.
#pragma once

#include <span>

#include "kernels.h"
#include "memory.h"
#include "parallel.h"

namespace samovar {

// A packed weight. Until memory is given to it, its view's pointers are null.
struct PackedLinear {
  WeightView view;
  bool has_order;
  Piece memory;        // none where it lies in memory of the caller's
  int64_t size_bytes;  // payload, heads, scales, row scales and order, each padded to 64 bytes, in this order

  PackedLinear(const Format& format, int64_t n_out, int64_t n_in, bool has_order = false);
  bool is_packed() const { return view.payload != nullptr; }
  const uint8_t* data() const { return view.payload; }
  // Point at `size_bytes` of packed weights that outlive this; 64-byte aligned, with at least 4 KiB readable behind them.
  void adopt(const uint8_t* data);
};

// Whether all n numbers are inputs of a row of n.
bool is_order(const int32_t* order, int64_t n);

// Fill `out` with `stored`: n_out rows of n_in values in its format, exactly (the caller has checked), and with `order` [n_in]
// where it has one. Memory comes from the arena. Throws std::bad_alloc.
void pack(PackedLinear& out, std::span<const uint8_t> stored, const int32_t* order, Arena& arena, ThreadPool& pool);

// Fill the int4 weight `out` from rows stored in `format`. Returns whether all values are finite; it is of no use otherwise.
bool pack_int4(PackedLinear& out, const Format& format, std::span<const uint8_t> stored, const int32_t* order,
               const Kernels& kernels, Arena& arena, ThreadPool& pool);

}  // namespace samovar
