// Quantised linear layers. Contract and order of sums: kernels.h; layouts: formats.h.
#include "codecs.h"
#include "isa_kernels.h"
#if defined(SAMOVAR_USE_AMX)
#include "amx_linear.h"
#endif

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr int64_t kPrefetchBytes = 4096;  // ahead of the codes in use; 2 KiB and 8 KiB measured 3 to 24 % slower on most types

constexpr int kVectorRows = kQuantRows < 8 ? kQuantRows : 8;  // of the largest tile that vectors work on
constexpr float kLargestCode = 127.0f * (1 << kLowBits);

// A row group read straight from its packed form.
template <class C>
struct PackedSource {
  using Meaning = typename C::Meaning;
  const uint8_t *payload, *heads, *scales;
  int64_t head_bytes, scale_bytes;

  PackedSource(const WeightView& w, int64_t row_group) {
    const int64_t n = n_groups(w.n_in);
    head_bytes = w.format->head_bytes();
    scale_bytes = w.format->scales_bytes();
    payload = w.payload + row_group * n * C::kPayloadBytes;
    heads = w.heads + row_group * (n / kHeadGroups) * head_bytes;
    scales = w.scales + row_group * n * scale_bytes;
  }
  inline void read(int64_t g, Group<Meaning>& group) const {
    const uint8_t* p = payload + g * C::kPayloadBytes;
    for (int64_t line = 0; line < C::kPayloadBytes; line += 64) prefetch(p + kPrefetchBytes + line);
    C::read(p, heads + (g / kHeadGroups) * head_bytes, scales + g * scale_bytes, group);
  }
};

// A row group unpacked once into scratch, for many tiles of rows.
template <class T>
struct PanelSource {
  using Meaning = T;
  static constexpr int64_t kVectors = T::kScales * (T::kHasMinimum ? 2 : 1);
  static constexpr int64_t kBytes = 8 * 64 + kVectors * 64;
  const uint8_t* panel;

  inline void read(int64_t g, Group<T>& group) const {
    const uint8_t* p = panel + g * kBytes;
    for (int j = 0; j < 8; ++j) group.codes[j] = load_codes(p + 64 * j);
    const float* f = reinterpret_cast<const float*>(p + 512);
    for (int s = 0; s < T::kScales; ++s) {
      group.scale[s] = load(f + 16 * s);
      if constexpr (T::kHasMinimum) group.minimum[s] = load(f + 16 * (T::kScales + s));
    }
  }
  static inline void write(uint8_t* panel, int64_t g, const Group<T>& group) {
    uint8_t* p = panel + g * kBytes;
    for (int j = 0; j < 8; ++j) store_codes(p + 64 * j, group.codes[j]);
    float* f = reinterpret_cast<float*>(p + 512);
    for (int s = 0; s < T::kScales; ++s) {
      store(f + 16 * s, group.scale[s]);
      if constexpr (T::kHasMinimum) store(f + 16 * (T::kScales + s), group.minimum[s]);
    }
  }
};

// Reads the packed form and leaves the panel behind.
template <class C>
struct UnpackingSource {
  using Meaning = typename C::Meaning;
  PackedSource<C> packed;
  uint8_t* panel;

  inline void read(int64_t g, Group<Meaning>& group) const {
    packed.read(g, group);
    PanelSource<Meaning>::write(panel, g, group);
  }
};

// Minus zero point times the sum of activations: where an integer dot product starts.
template <class T>
inline I32x16 start(I32x16 n_sum) {
  if constexpr (T::kZeroShift < 0) return set1_i32(0);
  return shl < T::kZeroShift<0 ? 0 : T::kZeroShift>(n_sum);
}

// start + the sum over the steps of code * q; the products of the high and low parts of q form two independent sums.
template <class T, int kFirst, int kLast>
inline I32x16 dot_steps(I32x16 start, const U8x64* codes, const int8_t* high, const int8_t* low) {
  I32x16 coarse = set1_i32(0), fine = start;
  for (int j = kFirst; j < kLast; ++j) {
    coarse = T::kIsWide ? dot_wide(coarse, codes[j], high + 4 * j) : dot(coarse, codes[j], high + 4 * j);
    fine = T::kIsWide ? dot_wide(fine, codes[j], low + 4 * j) : dot(fine, codes[j], low + 4 * j);
  }
  return add(shl<kLowBits>(coarse), fine);
}

template <class T, int kRows>
inline F32x16 add_group(F32x16 acc, const Group<T>& group, const TileGroup<kRows>& x, int row) {
  const F32x16 d = set1(x.d[row]);
  if constexpr (T::kScales == 1) {
    const I32x16 sum = dot_steps<T, 0, 8>(start<T>(set1_i32(x.n_sum[row])), group.codes, x.high[row], x.low[row]);
    acc = fma(to_f32(sum), mul(group.scale[0], d), acc);
    if constexpr (T::kHasMinimum) acc = fma(group.minimum[0], set1(x.d_sum[row]), acc);
    return acc;
  } else {
    const I32x16 first_sum = set1_i32(x.n_sum_first[row]), second_sum = sub(set1_i32(x.n_sum[row]), first_sum);
    const I32x16 first = dot_steps<T, 0, 4>(start<T>(first_sum), group.codes, x.high[row], x.low[row]);
    const I32x16 second = dot_steps<T, 4, 8>(start<T>(second_sum), group.codes, x.high[row], x.low[row]);
    acc = fma(to_f32(first), mul(group.scale[0], d), acc);
    if constexpr (T::kHasMinimum) acc = fma(group.minimum[0], mul(to_f32(sub(set1_i32(0), first_sum)), d), acc);
    acc = fma(to_f32(second), mul(group.scale[1], d), acc);
    if constexpr (T::kHasMinimum) acc = fma(group.minimum[1], mul(to_f32(sub(set1_i32(0), second_sum)), d), acc);
    return acc;
  }
}

template <class Source, int kRows>
void tile(const Source& source, const uint8_t* x, int64_t n_groups, float* out, int64_t out_stride, int64_t n_valid) {
  const auto* groups = reinterpret_cast<const TileGroup<kRows>*>(x);
  F32x16 acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = set1(0.0f);
  for (int64_t g = 0; g < n_groups; ++g) {
    Group<typename Source::Meaning> group;
    source.read(g, group);
    for (int r = 0; r < kRows; ++r) acc[r] = add_group<typename Source::Meaning, kRows>(acc[r], group, groups[g], r);
  }
  for (int r = 0; r < kRows; ++r) {
    if (n_valid == kRowGroup) {
      store(out + r * out_stride, acc[r]);
    } else {
      store_n(out + r * out_stride, acc[r], n_valid);
    }
  }
}

template <class Source, int kRows>
void tile_of(int width, const Source& source, const uint8_t* x, int64_t n_groups, float* out, int64_t out_stride,
             int64_t n_valid) {
  if (width == kRows) return tile<Source, kRows>(source, x, n_groups, out, out_stride, n_valid);
  if constexpr (kRows > 1) tile_of<Source, kRows / 2>(width, source, x, n_groups, out, out_stride, n_valid);
}

// The rows [first, last) of one row group, tile by tile.
template <class Source>
void tiles(const Source& source, const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last,
           int64_t row_group, float* out) {
  const int64_t n = n_groups(w.n_in), column = row_group * kRowGroup;
  const int64_t n_valid = w.n_out - column < kRowGroup ? w.n_out - column : kRowGroup;
  for (int64_t row = first; row < last;) {
    const int width = tile_width(row, n_rows, kQuantRows);
    const uint8_t* x_tile = x + row * n * kTileGroupBytes;
    float* o = out + row * w.n_out + column;
    tile_of<Source, kVectorRows>(width, source, x_tile, n, o, w.n_out, n_valid);
    row += width;
  }
}

template <class C>
void linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
            int64_t group_last, float* out, uint8_t* scratch) {
  using T = typename C::Meaning;
  const int64_t n = n_groups(w.n_in);
#if defined(SAMOVAR_USE_AMX)
  first = AmxLinear<C, PackedSource<C>>::rows(w, x, first, last, group_first, group_last, out, scratch);
#endif
  // Unpacking twice in registers costs less than a panel, and codes of 8 bits need no unpacking.
  const bool is_direct = C::kBits == 8 || last - first <= 2 * kVectorRows;
  for (int64_t row_group = group_first; row_group < group_last; ++row_group) {
    const PackedSource<C> packed(w, row_group);
    if (is_direct) {
      tiles(packed, w, x, n_rows, first, last, row_group, out);
      continue;
    }
    const int64_t column = row_group * kRowGroup;
    const int64_t n_valid = w.n_out - column < kRowGroup ? w.n_out - column : kRowGroup;
    tile<UnpackingSource<C>, kVectorRows>({packed, scratch}, x + first * n * kTileGroupBytes, n, out + first * w.n_out + column,
                                        w.n_out, n_valid);
    tiles(PanelSource<T>{scratch}, w, x, n_rows, first + kVectorRows, last, row_group, out);
  }
}

}  // namespace

void quant_linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
                  int64_t group_last, float* out, uint8_t* scratch) {
  const auto run = [&]<class C>() { linear<C>(w, x, n_rows, first, last, group_first, group_last, out, scratch); };
  switch (w.format->type) {
    case Type::kQ4_0:
      return run.template operator()<CodecQ4_0>();
    case Type::kQ4_1:
      return run.template operator()<CodecQ4_1>();
    case Type::kQ5_0:
      return run.template operator()<CodecQ5_0>();
    case Type::kQ5_1:
      return run.template operator()<CodecQ5_1>();
    case Type::kQ8_0:
      return run.template operator()<CodecQ8_0>();
    case Type::kQ2_K:
      return run.template operator()<CodecQ2_K>();
    case Type::kQ3_K:
      return run.template operator()<CodecQ3_K>();
    case Type::kQ4_K:
      return run.template operator()<CodecQ4_K>();
    case Type::kQ5_K:
      return run.template operator()<CodecQ5_K>();
    case Type::kQ6_K:
      return run.template operator()<CodecQ6_K>();
    case Type::kIQ4_NL:
      return run.template operator()<CodecIQ4_NL>();
    case Type::kIQ4_XS:
      return run.template operator()<CodecIQ4_XS>();
    case Type::kMXFP4:
      return run.template operator()<CodecMXFP4>();
    case Type::kNVFP4:
      return run.template operator()<CodecNVFP4>();
    default:
      return;  // float types go to float_linear
  }
}

// q = 128 high + low, high from -127 to 127, low from -64 to 63.
inline void split_store(I32x16 q, int8_t* high, int8_t* low) {
  const I32x16 upper = shift_right<kLowBits>(add(q, set1_i32(1 << (kLowBits - 1))));
  store_i8(high, upper);
  store_i8(low, sub(q, shl<kLowBits>(upper)));
}

// d = largest magnitude / kLargestCode, q = round(x / d). A group below 1e-30 counts as zero: its reciprocal would overflow.
// The largest is found among the bits as integers, where no-number is largest of all and so is not lost.
void quantise_rows(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles_out) {
  const int64_t n = n_groups(n_in);
  for (int64_t row = first; row < last;) {
    const int64_t width = tile_width(row, n_rows, kQuantRows);
    for (int64_t r = 0; r < width; ++r) {
      const float* source = x + (row + r) * n_in;
      uint8_t* tile_group = tiles_out + row * n * kTileGroupBytes;
      for (int64_t g = 0; g < n; ++g, source += kGroup, tile_group += width * kTileGroupBytes) {
        auto* high = reinterpret_cast<int8_t*>(tile_group) + r * kGroup;
        auto* low = high + width * kGroup;
        auto* numbers = reinterpret_cast<float*>(tile_group + width * 2 * kGroup) + r;
        auto* sums = reinterpret_cast<int32_t*>(tile_group + width * (2 * kGroup + 8)) + r;
        const F32x16 a = load(source), b = load(source + 16);
        const float largest = f32_from_bits(static_cast<uint32_t>(max_lanes(max(as_i32(abs(a)), as_i32(abs(b))))));
        const bool is_zero = largest < 1e-30f;
        const F32x16 scale = set1(is_zero ? 0.0f : kLargestCode / largest);
        const float d = is_zero ? 0.0f : largest * (1.0f / kLargestCode);
        const I32x16 q_first = to_i32(round_even(mul(a, scale))), q_second = to_i32(round_even(mul(b, scale)));
        split_store(q_first, high, low);
        split_store(q_second, high + 16, low + 16);
        const int32_t n_sum_first = sum_lanes(sub(set1_i32(0), q_first)), n_sum_all = n_sum_first - sum_lanes(q_second);
        numbers[0] = d;
        numbers[width] = d * static_cast<float>(-n_sum_all);
        sums[0] = n_sum_all;
        sums[width] = n_sum_first;
      }
    }
    row += width;
  }
}

}  // namespace samovar::SAMOVAR_ISA
