// Quantised linear layers. Contract and order of sums: kernels.h; layouts: formats.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "codecs.h"
#include "isa_kernels.h"
#if defined(SAMOVAR_USE_AMX)
#include "amx_linear.h"
#endif

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr int64_t kPrefetchBytes = 4096;  // ahead of the codes in use; 2 KiB and 8 KiB measured 3 to 24 % slower on most types

constexpr float kLargestHigh = 127.0f;
constexpr float kLargestCode = kLargestHigh * (1 << kLowBits);
constexpr float kFineAbove = 4.0f;  // times its row's root mean square, and a group's largest value earns it 15 bits
constexpr int kVectorRows = kQuantRows < 8 ? kQuantRows : 8;  // of the largest tile that vectors work on
constexpr int64_t kDirectRows = 32;   // up to so many input rows, weights are unpacked for each tile anew
constexpr int64_t kPanelGroups = 16;  // groups of k unpacked at a time: the panel stays in the first-level cache

// Row groups (kColumns of them) read straight from their packed form.
template <class C, int kColumns>
struct PackedSource {
  using Meaning = typename C::Meaning;
  const uint8_t *payload, *heads, *scales;
  int64_t head_bytes, scale_bytes, n;

  PackedSource(const WeightView& w, int64_t row_group) : n(n_groups(w.n_in)) {
    head_bytes = w.format->head_bytes();
    scale_bytes = w.format->scales_bytes();
    payload = w.payload + row_group * n * C::kPayloadBytes;
    heads = w.heads + row_group * (n / kHeadGroups) * head_bytes;
    scales = w.scales + row_group * n * scale_bytes;
  }
  inline void read(int64_t g, int column, Group<Meaning>& group) const {
    const uint8_t* p = payload + (column * n + g) * C::kPayloadBytes;
    for (int64_t line = 0; line < C::kPayloadBytes; line += 64) prefetch(p + kPrefetchBytes + line);
    C::read(p, heads + (column * (n / kHeadGroups) + g / kHeadGroups) * head_bytes, scales + (column * n + g) * scale_bytes,
            group);
  }
};

// The groups of a run of k of kColumns row groups, unpacked once into scratch for many tiles of rows.
template <class T, int kColumns>
struct PanelSource {
  using Meaning = T;
  static constexpr int64_t kVectors = T::kScales * (T::kHasMinimum ? 2 : 1);
  static constexpr int64_t kBytes = 8 * 64 + kVectors * 64;
  uint8_t* panel;
  int64_t first;  // group of k that the panel begins with

  inline uint8_t* at(int64_t g, int column) const { return panel + ((g - first) * kColumns + column) * kBytes; }
  inline void read(int64_t g, int column, Group<T>& group) const {
    const uint8_t* p = at(g, column);
    for (int j = 0; j < 8; ++j) group.codes[j] = load_codes(p + 64 * j);
    const float* f = reinterpret_cast<const float*>(p + 512);
    for (int s = 0; s < T::kScales; ++s) {
      group.scale[s] = load(f + 16 * s);
      if constexpr (T::kHasMinimum) group.minimum[s] = load(f + 16 * (T::kScales + s));
    }
  }
  inline void write(int64_t g, int column, const Group<T>& group) const {
    uint8_t* p = at(g, column);
    for (int j = 0; j < 8; ++j) store_codes(p + 64 * j, group.codes[j]);
    float* f = reinterpret_cast<float*>(p + 512);
    for (int s = 0; s < T::kScales; ++s) {
      store(f + 16 * s, group.scale[s]);
      if constexpr (T::kHasMinimum) store(f + 16 * (T::kScales + s), group.minimum[s]);
    }
  }
};

// Minus zero point times the sum of activations: where an integer dot product starts.
template <class T>
inline I32x16 start(I32x16 n_sum) {
  if constexpr (T::kZeroShift < 0) return set1_i32(0);
  return shl < T::kZeroShift<0 ? 0 : T::kZeroShift>(n_sum);
}

// The same for a sum of high parts alone, q = 128 high: 2^7 times what comes out is what `start` gives.
template <class T>
inline I32x16 start_high(I32x16 n_sum) {
  if constexpr (T::kZeroShift < 0) return set1_i32(0);
  return shift_right<T::kZeroShift < 0 ? 0 : kLowBits - T::kZeroShift>(n_sum);
}

// Minus zero point times sum, plus the sum over the steps of code * q, where -n_sum is the sum of q. Without low parts, half
// the products are saved; the integers are the same.
template <class T, bool kIsFine, int kFirst, int kLast>
inline I32x16 dot_steps(I32x16 n_sum, const U8x64* codes, const int8_t* high, const int8_t* low) {
  I32x16 coarse = kIsFine ? set1_i32(0) : start_high<T>(n_sum);
  for (int j = kFirst; j < kLast; ++j) {
    coarse = T::kIsWide ? dot_wide(coarse, codes[j], high + 4 * j) : dot(coarse, codes[j], high + 4 * j);
  }
  if constexpr (!kIsFine) return shl<kLowBits>(coarse);
  I32x16 fine = start<T>(n_sum);
  for (int j = kFirst; j < kLast; ++j) {
    fine = T::kIsWide ? dot_wide(fine, codes[j], low + 4 * j) : dot(fine, codes[j], low + 4 * j);
  }
  return add(shl<kLowBits>(coarse), fine);
}

template <class T, bool kIsFine, int kRows>
inline F32x16 add_group(F32x16 acc, const Group<T>& group, const TileGroup<kRows>& x, int row) {
  const F32x16 d = set1(kIsFine ? std::fabs(x.d[row]) : x.d[row]);
  if constexpr (T::kScales == 1) {
    const I32x16 sum = dot_steps<T, kIsFine, 0, 8>(set1_i32(x.n_sum[row]), group.codes, x.high[row], x.low[row]);
    acc = fma(to_f32(sum), mul(group.scale[0], d), acc);
    if constexpr (T::kHasMinimum) acc = fma(group.minimum[0], set1(x.d_sum[row]), acc);
    return acc;
  } else {
    const I32x16 first_sum = set1_i32(x.n_sum_first[row]), second_sum = sub(set1_i32(x.n_sum[row]), first_sum);
    const I32x16 first = dot_steps<T, kIsFine, 0, 4>(first_sum, group.codes, x.high[row], x.low[row]);
    const I32x16 second = dot_steps<T, kIsFine, 4, 8>(second_sum, group.codes, x.high[row], x.low[row]);
    acc = fma(to_f32(first), mul(group.scale[0], d), acc);
    if constexpr (T::kHasMinimum) acc = fma(group.minimum[0], mul(to_f32(sub(set1_i32(0), first_sum)), d), acc);
    acc = fma(to_f32(second), mul(group.scale[1], d), acc);
    if constexpr (T::kHasMinimum) acc = fma(group.minimum[1], mul(to_f32(sub(set1_i32(0), second_sum)), d), acc);
    return acc;
  }
}

// Where a tile's results go: the first of its rows and columns, how far rows are apart, and how many outputs the last of the
// row groups has.
struct Target {
  float* out;
  int64_t stride, n_valid;

  template <int kColumns>
  int64_t valid(int column) const {
    return column == kColumns - 1 ? n_valid : kRowGroup;
  }
};

// Adds the groups [first, last) of k to kTiles tiles of kRows x (16 kColumns) outputs, which start at zero with group 0.
template <class Source, int kRows, int kTiles, int kColumns>
void multiply(const Source& source, const uint8_t* x, int64_t tile_groups, int64_t first, int64_t last, const Target& target) {
  using T = typename Source::Meaning;
  F32x16 acc[kTiles][kRows][kColumns];
  const auto for_each = [&](auto f) {
    for (int t = 0; t < kTiles; ++t) {
      for (int r = 0; r < kRows; ++r) {
        for (int c = 0; c < kColumns; ++c) {
          f(acc[t][r][c], target.out + (t * kRows + r) * target.stride + c * kRowGroup, target.valid<kColumns>(c));
        }
      }
    }
  };
  for_each([&](F32x16& a, const float* from, int64_t n) { a = first == 0 ? set1(0.0f) : load_n(from, n); });
  for (int64_t g = first; g < last; ++g) {
    Group<T> group[kColumns];
    for (int c = 0; c < kColumns; ++c) source.read(g, c, group[c]);
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t) {
      const auto& rows = reinterpret_cast<const TileGroup<kRows>*>(x)[t * tile_groups + g];
      const auto add_rows = [&]<bool kIsFine>() {
        for (int r = 0; r < kRows; ++r) {
          for (int c = 0; c < kColumns; ++c) {
            acc[t][r][c] = add_group<T, kIsFine, kRows>(acc[t][r][c], group[c], rows, r);
          }
        }
      };
      if (has_fine(rows)) {
        add_rows.template operator()<true>();
      } else {
        add_rows.template operator()<false>();
      }
    }
  }
  for_each([](const F32x16& a, float* to, int64_t n) { store_n(to, a, n); });
}

template <class Source, int kRows, int kColumns>
void multiply_tile(int width, const Source& source, const uint8_t* x, int64_t g_first, int64_t g_last, const Target& target) {
  if (width == kRows) return multiply<Source, kRows, 1, kColumns>(source, x, 0, g_first, g_last, target);
  if constexpr (kRows > 1) multiply_tile<Source, kRows / 2, kColumns>(width, source, x, g_first, g_last, target);
}

// The rows [first, last) of kColumns row groups, over the groups [g_first, g_last) of k.
template <int kColumns, class Source>
void multiply_rows(const Source& source, const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last,
                   int64_t g_first, int64_t g_last, int64_t row_group, float* out) {
  constexpr int kTiles = kColumns == 1 ? kQuantTiles : 1;
  const int64_t n = n_groups(w.n_in), column = row_group * kRowGroup;
  const int64_t n_valid = std::min(kRowGroup, w.n_out - column - (kColumns - 1) * kRowGroup);
  for (int64_t row = first; row < last;) {
    const uint8_t* tiles = x + row * n * kTileGroupBytes;
    const Target target{out + row * w.n_out + column, w.n_out, n_valid};
    if (kTiles > 1 && row + kTiles * kVectorRows <= last) {
      multiply<Source, kVectorRows, kTiles, kColumns>(source, tiles, n, g_first, g_last, target);
      row += kTiles * kVectorRows;
      continue;
    }
    const int width = tile_width(row, n_rows, kQuantRows);
    multiply_tile<Source, kVectorRows, kColumns>(width, source, tiles, g_first, g_last, target);
    row += width;
  }
}

template <class C, int kColumns>
void columns(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t row_group, float* out,
             uint8_t* scratch) {
  using T = typename C::Meaning;
  const int64_t n = n_groups(w.n_in);
  const PackedSource<C, kColumns> packed(w, row_group);
  // Unpacking a few times in registers costs less than a panel, and codes of 8 bits need no unpacking.
  if (C::kBits == 8 || last - first <= kDirectRows) {
    return multiply_rows<kColumns>(packed, w, x, n_rows, first, last, 0, n, row_group, out);
  }
  for (int64_t g_first = 0; g_first < n; g_first += kPanelGroups) {
    const int64_t g_last = std::min(n, g_first + kPanelGroups);
    const PanelSource<T, kColumns> panel{scratch, g_first};
    for (int64_t g = g_first; g < g_last; ++g) {
      for (int c = 0; c < kColumns; ++c) {
        Group<T> group;
        packed.read(g, c, group);
        panel.write(g, c, group);
      }
    }
    multiply_rows<kColumns>(panel, w, x, n_rows, first, last, g_first, g_last, row_group, out);
  }
}

template <class C>
void linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
            int64_t group_last, float* out, uint8_t* scratch) {
  using T = typename C::Meaning;
#if defined(SAMOVAR_USE_AMX)
  first = AmxLinear<C, PackedSource<C, 1>>::rows(w, x, first, last, group_first, group_last, out, scratch);
#endif
  constexpr int kColumns = T::kScales == 1 && !T::kHasMinimum ? kQuantColumns : 1;  // registers do not suffice for more
  int64_t row_group = group_first;
  if (last - first > kDirectRows) {
    for (; row_group + kColumns <= group_last; row_group += kColumns) {
      columns<C, kColumns>(w, x, n_rows, first, last, row_group, out, scratch);
    }
  }
  for (; row_group < group_last; ++row_group) columns<C, 1>(w, x, n_rows, first, last, row_group, out, scratch);
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

// d = largest magnitude / kLargestCode, q = round(x / d): 15 bits, with d negated as a mark. A group whose largest magnitude is
// no outlier of its row gets 8 bits: q = 128 round(x / (128 d)), so low is 0. A group below 1e-30 counts as zero: its
// reciprocal would overflow. The largest is found among the bits as integers, where no-number is largest of all and so is
// not lost.
void quantise_rows(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles_out) {
  const int64_t n = n_groups(n_in);
  for (int64_t row = first; row < last;) {
    const int64_t width = tile_width(row, n_rows, kQuantRows);
    for (int64_t r = 0; r < width; ++r) {
      const float* source = x + (row + r) * n_in;
      uint8_t* tile_group = tiles_out + row * n * kTileGroupBytes;
      F32x16 energy = set1(0.0f);
      for (int64_t k = 0; k < n_in; k += 16) energy = fma(load(source + k), load(source + k), energy);
      const float fine_above = kFineAbove * std::sqrt(sum_lanes(energy) / static_cast<float>(n_in));
      for (int64_t g = 0; g < n; ++g, source += kGroup, tile_group += width * kTileGroupBytes) {
        auto* high = reinterpret_cast<int8_t*>(tile_group) + r * kGroup;
        auto* low = high + width * kGroup;
        auto* numbers = reinterpret_cast<float*>(tile_group + width * 2 * kGroup) + r;
        auto* sums = reinterpret_cast<int32_t*>(tile_group + width * (2 * kGroup + 8)) + r;
        const F32x16 a = load(source), b = load(source + 16);
        const float largest = f32_from_bits(static_cast<uint32_t>(max_lanes(max(as_i32(abs(a)), as_i32(abs(b))))));
        const bool is_zero = largest < 1e-30f;
        const bool is_fine = largest > fine_above;
        const F32x16 scale = set1(is_zero ? 0.0f : (is_fine ? kLargestCode : kLargestHigh) / largest);
        const float d = is_zero ? 0.0f : largest * (1.0f / kLargestCode);
        I32x16 q_first = to_i32(round_even(mul(a, scale))), q_second = to_i32(round_even(mul(b, scale)));
        if (!is_fine) {
          q_first = shl<kLowBits>(q_first);
          q_second = shl<kLowBits>(q_second);
        }
        split_store(q_first, high, low);
        split_store(q_second, high + 16, low + 16);
        const int32_t n_sum_first = sum_lanes(sub(set1_i32(0), q_first)), n_sum_all = n_sum_first - sum_lanes(q_second);
        numbers[0] = is_fine ? -d : d;
        numbers[width] = d * static_cast<float>(-n_sum_all);
        sums[0] = n_sum_all;
        sums[width] = n_sum_first;
      }
    }
    row += width;
  }
}

}  // namespace samovar::SAMOVAR_ISA
