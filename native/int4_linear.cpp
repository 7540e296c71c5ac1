// int4 linear layers: a row of weights is a row of int8 with one scale, and so is a row of input, so that the products of all k are
// one exact integer. Contract: kernels.h; layout: formats.h; the weights' definition: samovar.kernels.int4.
#include <algorithm>

#include "isa_kernels.h"
#include "outliers.h"
#if defined(SAMOVAR_USE_AMX)
#include "amx_int4.h"
#endif

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr int64_t kPayloadBytes = 4 * kGroup * kRowGroup / 8;

struct Bytes64 {
  alignas(64) uint8_t bytes[64];
  constexpr explicit Bytes64(uint8_t value) : bytes{} {
    for (uint8_t& byte : bytes) byte = value;
  }
};
constexpr Bytes64 kNone(0), kBias(128);

// Where a sum of (value + 128) * q starts, -n_sum being the sum of q.
I32x16 start(int32_t n_sum) {
  if constexpr (kWideShift < 0) return set1_i32(0);
  return shl<kWideShift<0 ? 0 : kWideShift>(set1_i32(n_sum));
}

struct Weights {
  const uint8_t *payload, *bytes;
  F32x16 scale;
  int64_t n, n_valid;  // groups, outputs of this row group

  Weights(const WeightView& w, int64_t row_group)
      : payload(w.payload + row_group * n_groups(w.n_in) * kPayloadBytes),
        bytes(w.scales + row_group * n_groups(w.n_in) * kRowGroup),
        scale(load(w.row_scales + row_group * kRowGroup)),
        n(n_groups(w.n_in)),
        n_valid(std::min(kRowGroup, w.n_out - row_group * kRowGroup)) {}

  // The int8 values of group g, as bytes of 128 more, are multiplier * code + offset.
  void expansion(int64_t g, U8x64& multiplier, U8x64& offset) const {
    const U8x64 both = spread(bytes + g * kRowGroup);
    multiplier = take_bits<0>(both, 15);
    offset = sub(load_codes(kBias.bytes), multiply_add(take_bits<4>(both, 15), multiplier, load_codes(kNone.bytes)));
  }
  U8x64 step(int32_t at) const {
    const int64_t g = at / 8, j = at % 8;
    U8x64 multiplier, offset;
    expansion(g, multiplier, offset);
    const U8x64 codes = take_bits_at(load_codes(payload + g * kPayloadBytes + 64 * (j % 4)), j < 4 ? 0 : 4, 15);
    return multiply_add(codes, multiplier, offset);
  }
  // out = sum times the scales of weights and row, and the row's outliers.
  void finish(I32x16 sum, float d, const RowOutliers& outliers, float* out) const {
    F32x16 acc = mul(to_f32(sum), mul(scale, set1(d)));
    for (int64_t i = 0; i < outliers.n; ++i) {
      const Outlier& x = outliers.list[i];
      const I32x16 dot = dot_wide(start(x.n_sum), step(x.at), x.high);
      acc = fma(to_f32(dot), mul(scale, set1(x.d)), acc);
    }
    store_n(out, acc, n_valid);
  }
};

// All steps of a row group, 64 bytes each, in the order of k.
void unpack(const Weights& weights, uint8_t* panel) {
  for (int64_t g = 0; g < weights.n; ++g, panel += 8 * 64) {
    U8x64 multiplier, offset;
    weights.expansion(g, multiplier, offset);
    for (int j = 0; j < 4; ++j) {
      const U8x64 both = load_codes(weights.payload + g * kPayloadBytes + 64 * j);
      store_codes(panel + 64 * j, multiply_add(take_bits<0>(both, 15), multiplier, offset));
      store_codes(panel + 64 * (j + 4), multiply_add(take_bits<4>(both, 15), multiplier, offset));
    }
  }
}

// A tile of `width` rows, a power of two up to kRows, times one row group, which is read from `panel` if it is unpacked.
template <int kRows, bool kIsUnpacked>
void multiply(int width, const Weights& weights, const uint8_t* panel, const WholeRows& x, int64_t row, float* out, int64_t stride) {
  if constexpr (kRows > 1) {
    if (width < kRows) return multiply<kRows / 2, kIsUnpacked>(width, weights, panel, x, row, out, stride);
  }
  I32x16 sum[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = start(x.n_sum[row + r]);
  for (int64_t g = 0; g < weights.n; ++g) {
    const int8_t* q = x.q + row * x.n_in + g / 2 * kRows * kInt4Unit + g % 2 * kGroup;
    const uint8_t* p = weights.payload + g * kPayloadBytes;
    U8x64 multiplier, offset, low, high;
    if constexpr (!kIsUnpacked) weights.expansion(g, multiplier, offset);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if constexpr (kIsUnpacked) {
        low = load_codes(panel + 64 * (8 * g + j));
        high = load_codes(panel + 64 * (8 * g + j + 4));
      } else {
        if constexpr (kPrefetchBytes > 0) prefetch(p + kPrefetchBytes + 64 * j);
        const U8x64 both = load_codes(p + 64 * j);
        low = multiply_add(take_bits<0>(both, 15), multiplier, offset);
        high = multiply_add(take_bits<4>(both, 15), multiplier, offset);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sum[r] = dot_wide(sum[r], low, q + r * kInt4Unit + 4 * j);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sum[r] = dot_wide(sum[r], high, q + r * kInt4Unit + 16 + 4 * j);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    weights.finish(sum[r], x.d[row + r], x.outliers_of(row + r), out + (row + r) * stride);
  }
}

}  // namespace

void int4_linear(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
                 int64_t group_last, float* out, uint8_t* scratch) {
  const WholeRows x(const_cast<uint8_t*>(tiles), n_rows, w.n_in);
  const auto finish = [&](const int32_t* sums, int64_t row, int64_t row_group) {
    const I32x16 sum = add(as_i32(load(reinterpret_cast<const float*>(sums))), start(x.n_sum[row]));
    Weights(w, row_group).finish(sum, x.d[row], x.outliers_of(row), out + row * w.n_out + row_group * kRowGroup);
  };
#if defined(SAMOVAR_USE_AMX)
  const auto unpack_group = [&](int64_t row_group, uint8_t* panel) { unpack(Weights(w, row_group), panel); };
  first = AmxInt4::rows(x.q, w.n_in, first, last, group_first, group_last, scratch, unpack_group, finish);
#else
  static_cast<void>(finish);
#endif
  const bool is_unpacked = last - first > kWholeRows;
  for (int64_t row_group = group_first; row_group < group_last; ++row_group) {
    const Weights weights(w, row_group);
    if (is_unpacked) unpack(weights, scratch);
    const auto multiply_tile = is_unpacked ? multiply<kWholeRows, true> : multiply<kWholeRows, false>;
    for (int64_t row = first; row < last;) {
      const int width = tile_width(row, n_rows, kWholeRows);
      multiply_tile(width, weights, scratch, x, row, out + row_group * kRowGroup, w.n_out);
      row += width;
    }
  }
}

void quantise_whole_rows(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles) {
  const WholeRows to(tiles, n_rows, n_in);
  for (int64_t row = first; row < last; ++row) {
    const auto [start, width] = tile_of(row, n_rows, kWholeRows);
    const float* source = x + row * n_in;
    const RowOutliers outliers = to.outliers_of(row);
    outliers.n = 0;
    I32x16 top = set1_i32(0);
    for (int64_t k = 0; k < n_in; k += 16) top = max(top, as_i32(abs(load(source + k))));
    const float largest = largest_of(top), limit = outlier_limit(source, n_in);
    const bool has_high = largest > limit;
    const float reach = has_high ? std::max(limit, largest / (kMostHigh + 1)) : largest;
    const bool is_zero = reach < kLeastReach;
    const F32x16 scale = set1(is_zero ? 0.0f : kLargestCode / reach);
    const float d = is_zero ? 0.0f : reach * (1.0f / kLargestCode);
    I32x16 sum = set1_i32(0);
    for (int64_t g = 0; g < n_groups(n_in); ++g, source += kGroup) {
      int8_t* q = to.q + start * n_in + (g / 2 * width + row - start) * kInt4Unit + g % 2 * kGroup;
      const F32x16 a = load(source), b = load(source + 16);
      I32x16 q_first = to_i32(round_even(mul(a, scale))), q_second = to_i32(round_even(mul(b, scale)));
      if (has_high && largest_of(max(as_i32(abs(a)), as_i32(abs(b)))) > reach) {
        take_outliers(q_first, q_second, g, d, outliers);
      }
      store_i8(q, q_first);
      store_i8(q + 16, q_second);
      sum = sub(sum, add(q_first, q_second));
    }
    to.d[row] = d;
    to.n_sum[row] = sum_lanes(sum);
  }
}

}  // namespace samovar::SAMOVAR_ISA
