// Linear layers with float32, float16, bfloat16 and 8-bit float weights. Contract and order of sums: kernels.h.
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

struct FromE4M3 {
  static constexpr int64_t kBytes = 1;
  static constexpr float kUnit = 256.0f;  // what load_e4m3 divides by
  static F32x16 read(const uint8_t* p) { return load_e4m3(p); }
};
struct FromE5M2 {
  static constexpr int64_t kBytes = 1;
  static constexpr float kUnit = 1.0f;
  static F32x16 read(const uint8_t* p) { return load_e5m2(p); }
};

// One row group; `scales` [n_in / scaled][16] are those of 8-bit floats.
struct Weights {
  const uint8_t* payload;
  const float* scales;
  int64_t n_in, scaled;
};

template <class From, int kRows>
void tile(const Weights& w, const float* x, float* out, int64_t out_stride, int64_t n_valid) {
  constexpr int64_t kStep = kRowGroup * From::kBytes;
  const uint8_t* weights = w.payload;
  const int64_t n_in = w.n_in, step = From::kBytes == 1 && w.scaled < kBlock ? w.scaled : kBlock;
  F32x16 total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = set1(0.0f);
  for (int64_t block = 0; block < n_in; block += step) {
    const int64_t end = block + step < n_in ? block + step : n_in;
    F32x16 acc[kRows];
    for (int r = 0; r < kRows; ++r) acc[r] = set1(0.0f);
    for (int64_t k = block; k < end; ++k) {
      const F32x16 w = From::read(weights + k * kStep);
      for (int r = 0; r < kRows; ++r) acc[r] = fma(w, set1(x[k * kRows + r]), acc[r]);
    }
    if constexpr (From::kBytes == 1) {
      const F32x16 scale = load(w.scales + block / w.scaled * kRowGroup);
      for (int r = 0; r < kRows; ++r) total[r] = fma(mul(acc[r], set1(From::kUnit)), scale, total[r]);
    } else {
      for (int r = 0; r < kRows; ++r) total[r] = add(total[r], acc[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) store_n(out + r * out_stride, total[r], n_valid);
}

template <class From>
void linear(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
            int64_t group_last, float* out) {
  for (int64_t row_group = group_first; row_group < group_last; ++row_group) {
    const int64_t scaled = w.format->scaled_values();
    const float* scales = reinterpret_cast<const float*>(w.scales) + row_group * (w.n_in / scaled) * kRowGroup;
    const Weights weights{w.payload + row_group * w.n_in * kRowGroup * From::kBytes, scales, w.n_in, scaled};
    const int64_t column = row_group * kRowGroup;
    const int64_t n_valid = w.n_out - column < kRowGroup ? w.n_out - column : kRowGroup;
    for (int64_t row = first; row < last;) {
      const int width = tile_width(row, n_rows, kTileRows);
      const float* x = reinterpret_cast<const float*>(tiles) + row * w.n_in;
      float* o = out + row * w.n_out + column;
      if constexpr (kTileRows >= 8) {
        if (width == 8) tile<From, 8>(weights, x, o, w.n_out, n_valid);
        if (width == 4) tile<From, 4>(weights, x, o, w.n_out, n_valid);
      }
      if (width == 2) tile<From, 2>(weights, x, o, w.n_out, n_valid);
      if (width == 1) tile<From, 1>(weights, x, o, w.n_out, n_valid);
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
    case Type::kE4M3_32:
    case Type::kE4M3_64:
    case Type::kE4M3_128:
      return linear<FromE4M3>(w, tiles, n_rows, first, last, group_first, group_last, out);
    case Type::kE5M2_32:
    case Type::kE5M2_64:
    case Type::kE5M2_128:
      return linear<FromE5M2>(w, tiles, n_rows, first, last, group_first, group_last, out);
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
