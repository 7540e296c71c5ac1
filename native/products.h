// Products of input rows with packed weights, many in one go: what `linears` and `experts` share.
#pragma once

#include <cstdint>
#include <span>

#include "kernels.h"
#include "parallel.h"

namespace samovar {

// One product: out [T, n_out] = residual + (rows times weight + bias). Both addends may be missing.
struct Product {
  WeightView weight;
  float* out;
  const float* bias;
  const float* residual;
};

// The forms that rows are regrouped in, see kernels.h: which of them the weights of a call need.
struct RowForms {
  bool quantised = false, int4 = false, floats = false;

  void add(const Format& format) { (format.takes_float_rows() ? floats : format.is_int4() ? int4 : quantised) = true; }
};

// Rows [n_rows, n_in], regrouped in each form that is needed.
struct RoundedRows {
  int64_t n_rows = 0, n_in = 0;
  uint8_t *quantised = nullptr, *int4 = nullptr, *floats = nullptr;

  RoundedRows() = default;
  // On `memory` of `bytes(...)`, 64-byte aligned.
  RoundedRows(const RowForms& forms, int64_t n_rows_, int64_t n_in_, uint8_t* memory) : n_rows(n_rows_), n_in(n_in_) {
    if (forms.quantised) quantised = memory, memory += whole_lines(tile_bytes(n_rows, n_in));
    if (forms.int4) int4 = memory, memory += whole_lines(whole_row_bytes(n_rows, n_in));
    if (forms.floats) floats = memory;
  }
  static int64_t whole_lines(int64_t n) { return (n + 63) / 64 * 64; }
  static int64_t bytes(const RowForms& forms, int64_t n_rows, int64_t n_in) {
    return (forms.quantised ? whole_lines(tile_bytes(n_rows, n_in)) : 0) + (forms.int4 ? whole_lines(whole_row_bytes(n_rows, n_in)) : 0) +
           (forms.floats ? whole_lines(float_tile_bytes(n_rows, n_in)) : 0);
  }
  // Regroup x[first .. last) of all rows x.
  void fill(const Kernels& kernels, const float* x, int64_t first, int64_t last) const {
    if (quantised != nullptr) kernels.quantise_rows(x, n_rows, n_in, first, last, quantised);
    if (int4 != nullptr) kernels.quantise_whole_rows(x, n_rows, n_in, first, last, int4);
    if (floats != nullptr) kernels.tile_rows_f32(x, n_rows, n_in, first, last, floats);
  }
  // Regroup one row, which lies elsewhere.
  void fill_row(const Kernels& kernels, const float* values, int64_t row) const { fill(kernels, values - row * n_in, row, row + 1); }
  const uint8_t* of(const Format& format) const { return format.takes_float_rows() ? floats : format.is_int4() ? int4 : quantised; }
};

// A product and its input.
struct Task {
  Product product;
  const RoundedRows* rows;
};

// Compute all tasks together, split into items of rows of weights and blocks of input rows. An order of inputs is not looked at: rows
// lie in it. Takes the scratch of Slot::kWork.
void multiply(const Kernels& kernels, ThreadPool& pool, std::span<const Task> tasks);

inline constexpr int64_t kInlineElements = 16384;  // element-wise work below this is not worth waking a thread
inline constexpr int64_t kRoundedElements = 4096;  // of input rows that are normalised or gated, and rounded, in one item
inline constexpr int64_t kRoundedRows = 8;         // a multiple of so many rows: neighbours in a tile share cache lines

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One row, its values in the order of a weight's columns, see WeightView.
inline void in_order(const float* row, const int32_t* order, int64_t n_in, float* out) {
  for (int64_t k = 0; k < n_in; ++k) out[k] = row[order[k]];
}

// Rows that are rounded in one item.
inline int64_t rows_per_item(int64_t n_in) {
  const int64_t rows = kRoundedElements / n_in / kRoundedRows * kRoundedRows;
  return rows > kRoundedRows ? rows : kRoundedRows;
}

}  // namespace samovar
