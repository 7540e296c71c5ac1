// Linear layers with float32, float16 and bfloat16 weights. Contract and order of sums: kernels.h.
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr int64_t kBlock = 64;  // products summed together before they join the total: keeps rounding errors small

struct FromF32 {
  static constexpr int64_t kBytes = 4;
  static F32x16 read(const uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
};
struct FromF16 {
  static constexpr int64_t kBytes = 2;
  static F32x16 read(const uint8_t* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
};
struct FromBf16 {
  static constexpr int64_t kBytes = 2;
  static F32x16 read(const uint8_t* p) { return load_bf16(reinterpret_cast<const uint16_t*>(p)); }
};

template <class From, int kRows>
void tile(const uint8_t* weights, const float* x, int64_t n_in, float* out, int64_t out_stride, int64_t n_valid) {
  constexpr int64_t kStep = kRowGroup * From::kBytes;
  F32x16 total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = set1(0.0f);
  for (int64_t block = 0; block < n_in; block += kBlock) {
    const int64_t end = block + kBlock < n_in ? block + kBlock : n_in;
    F32x16 acc[kRows];
    for (int r = 0; r < kRows; ++r) acc[r] = set1(0.0f);
    for (int64_t k = block; k < end; ++k) {
      const F32x16 w = From::read(weights + k * kStep);
      for (int r = 0; r < kRows; ++r) acc[r] = fma(w, set1(x[k * kRows + r]), acc[r]);
    }
    for (int r = 0; r < kRows; ++r) total[r] = add(total[r], acc[r]);
  }
  for (int r = 0; r < kRows; ++r) store_n(out + r * out_stride, total[r], n_valid);
}

template <class From>
void linear(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
            int64_t group_last, float* out) {
  for (int64_t row_group = group_first; row_group < group_last; ++row_group) {
    const uint8_t* weights = w.payload + row_group * w.n_in * kRowGroup * From::kBytes;
    const int64_t column = row_group * kRowGroup;
    const int64_t n_valid = w.n_out - column < kRowGroup ? w.n_out - column : kRowGroup;
    for (int64_t row = first; row < last;) {
      const int width = tile_width(row, n_rows, kTileRows);
      const float* x = reinterpret_cast<const float*>(tiles) + row * w.n_in;
      float* o = out + row * w.n_out + column;
      if constexpr (kTileRows >= 8) {
        if (width == 8) tile<From, 8>(weights, x, w.n_in, o, w.n_out, n_valid);
        if (width == 4) tile<From, 4>(weights, x, w.n_in, o, w.n_out, n_valid);
      }
      if (width == 2) tile<From, 2>(weights, x, w.n_in, o, w.n_out, n_valid);
      if (width == 1) tile<From, 1>(weights, x, w.n_in, o, w.n_out, n_valid);
      row += width;
    }
  }
}

}  // namespace

void float_linear(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
                  int64_t group_last, float* out, uint8_t*) {
  switch (w.format->type) {
    case Type::kF32:
      return linear<FromF32>(w, tiles, n_rows, first, last, group_first, group_last, out);
    case Type::kF16:
      return linear<FromF16>(w, tiles, n_rows, first, last, group_first, group_last, out);
    case Type::kBF16:
      return linear<FromBf16>(w, tiles, n_rows, first, last, group_first, group_last, out);
    default:
      return;  // quantised types go to quant_linear
  }
}

void tile_rows_f32(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles_out) {
  for (int64_t row = first; row < last; ++row) {
    const auto [start, width] = tile_of(row, n_rows, kTileRows);
    float* out = reinterpret_cast<float*>(tiles_out) + start * n_in + row - start;
    for (int64_t k = 0; k < n_in; ++k) out[k * width] = x[row * n_in + k];
  }
}

}  // namespace samovar::SAMOVAR_ISA
