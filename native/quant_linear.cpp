// Quantised linear layers. Contract and order of sums: kernels.h; layouts: formats.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "codecs.h"
#include "isa_kernels.h"
#include "outliers.h"
#if defined(SAMOVAR_USE_AMX)
#include "amx_linear.h"
#endif

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr int kVectorRows = kQuantRows < 8 ? kQuantRows : 8;  // of the largest tile that vectors work on
// Up to so many input rows, weights are unpacked in registers for each run of tiles anew.
constexpr int64_t kDirectRows = kQuantTiles > 1 ? INT64_MAX : kQuantRows;
constexpr int64_t kPanelGroups = 32;  // groups of k unpacked at a time: the panel stays in the first-level cache

template <class T>
inline I32x16 dot_codes(I32x16 sum, U8x64 codes, const int8_t* q) {
  return T::kMostCode > 127 ? dot_wide(sum, codes, q) : dot(sum, codes, q);
}

// A row group read straight from its packed form.
template <class C>
struct PackedSource {
  using Meaning = typename C::Meaning;
  const uint8_t *payload, *heads, *scales;
  int64_t head_bytes, scale_bytes, n;
  int scale_shift = 0;  // 2^scale_shift groups share scales

  PackedSource(const WeightView& w, int64_t row_group) : n(n_groups(w.n_in)) {
    head_bytes = w.format->head_bytes();
    scale_bytes = w.format->scales_bytes();
    if constexpr (C::kHasBlockScales) scale_shift = __builtin_ctzll(static_cast<uint64_t>(w.format->block_elements / kGroup));
    payload = w.payload + row_group * n * C::kPayloadBytes;
    heads = w.heads + row_group * (n / kHeadGroups) * head_bytes;
    scales = w.scales + row_group * (n >> scale_shift) * scale_bytes;
  }
  inline const uint8_t* scales_of(int64_t g) const { return scales + (C::kHasBlockScales ? g >> scale_shift : g) * scale_bytes; }
  [[gnu::always_inline]] inline void read(int64_t g, Group<Meaning>& group) const {
    const uint8_t* p = payload + g * C::kPayloadBytes;
    if constexpr (kPrefetchBytes > 0) {
      for (int64_t line = 0; line < C::kPayloadBytes; line += 64) prefetch(p + kPrefetchBytes + line);
    }
    C::read(p, heads + g / kHeadGroups * head_bytes, scales_of(g), group);
  }
  // acc plus an outlier times the weights.
  inline F32x16 add(F32x16 acc, const Outlier& x) const {
    constexpr int kScales = Meaning::kScales;
    const auto at = static_cast<uint32_t>(x.at);  // by shifts, where signed numbers would be divided
    const int64_t g = at / 8;
    const int step = at % 8;
    Group<Meaning> group;
    C::read_scales(heads + g / kHeadGroups * head_bytes, scales_of(g), group);
    const U8x64 codes = C::read_step(payload + g * C::kPayloadBytes, scales_of(g), step);
    const I32x16 dot = dot_codes<Meaning>(start(group, set1_i32(x.n_sum)), codes, x.high);
    const bool is_first = kScales == 1 || step < 4;
    acc = fma(to_f32(dot), mul(is_first ? group.scale[0] : group.scale[kScales - 1], set1(x.d)), acc);
    if constexpr (Meaning::kHasMinimum) {
      const F32x16 minimum = is_first ? group.minimum[0] : group.minimum[kScales - 1];
      acc = fma(minimum, set1(x.d * static_cast<float>(-x.n_sum)), acc);
    }
    return acc;
  }
};

// The groups of a run of k of a row group, unpacked once into scratch for many tiles of rows.
template <class T>
struct PanelSource {
  static_assert(sizeof(Unpacked<T>) <= kMaxUnpackedBytes);
  using Meaning = T;
  Unpacked<T>* panel;
  int64_t first;  // group of k that the panel begins with

  inline void read(int64_t g, Group<T>& group) const { panel[g - first].read(group); }
};

// sums[r] plus the sum over the steps [kFirst, kLast) of code * q, of kRows rows from `row` on: their chains of dots run side by side.
template <class T, int kFirst, int kLast, int kRows, int kTileWidth>
inline void dot_steps(I32x16* sums, const Group<T>& group, const TileGroup<kTileWidth>& x, int row) {
  constexpr int kRun = narrow_steps(T::kMostCode);
  if constexpr (kRun > 1) {
#pragma GCC unroll 4
    for (int first = kFirst; first < kLast; first += kRun) {
      PairSums pairs[kRows];
      for (int r = 0; r < kRows; ++r) pairs[r] = pair_sums(group.codes[first], x.q[row + r] + 4 * first);
      const int last = std::min(first + kRun, kLast);
#pragma GCC unroll 8
      for (int j = first + 1; j < last; ++j) {
        for (int r = 0; r < kRows; ++r) pairs[r] = add(pairs[r], pair_sums(group.codes[j], x.q[row + r] + 4 * j));
      }
      for (int r = 0; r < kRows; ++r) sums[r] = add(sums[r], pairs[r]);
    }
  } else {
    for (int j = kFirst; j < kLast; ++j) {
      for (int r = 0; r < kRows; ++r) sums[r] = dot_codes<T>(sums[r], group.codes[j], x.q[row + r] + 4 * j);
    }
  }
}

// Adds one group of k to the outputs of kRows rows of a tile, from `row` on; dots.template operator()<kFirst, kLast>(sums) adds steps.
template <class T, int kRows, int kTileWidth, class Dots>
inline void add_dots(F32x16* acc, const Group<T>& group, const TileGroup<kTileWidth>& x, int row, Dots dots) {
  I32x16 sums[kRows];
  if constexpr (T::kScales == 1) {
    for (int r = 0; r < kRows; ++r) sums[r] = start(group, set1_i32(x.n_sum[row + r]));
    dots.template operator()<0, 8>(sums);
    for (int r = 0; r < kRows; ++r) {
      acc[r] = fma(to_f32(sums[r]), mul(group.scale[0], set1(x.d[row + r])), acc[r]);
      if constexpr (T::kHasMinimum) acc[r] = fma(group.minimum[0], set1(x.d_sum[row + r]), acc[r]);
    }
  } else {
    const auto add_half = [&]<int kHalf>() {
      I32x16 n_sums[kRows];
      for (int r = 0; r < kRows; ++r) {
        n_sums[r] = set1_i32(x.n_sum_first[row + r]);
        if constexpr (kHalf == 1) n_sums[r] = sub(set1_i32(x.n_sum[row + r]), n_sums[r]);
        sums[r] = start(group, n_sums[r]);
      }
      dots.template operator()<4 * kHalf, 4 * kHalf + 4>(sums);
      for (int r = 0; r < kRows; ++r) {
        const F32x16 d = set1(x.d[row + r]);
        acc[r] = fma(to_f32(sums[r]), mul(group.scale[kHalf], d), acc[r]);
        if constexpr (T::kHasMinimum) acc[r] = fma(group.minimum[kHalf], mul(to_f32(sub(set1_i32(0), n_sums[r])), d), acc[r]);
      }
    };
    add_half.template operator()<0>();
    add_half.template operator()<1>();
  }
}

template <class T, int kRows, int kTileWidth>
inline void add_group(F32x16* acc, const Group<T>& group, const TileGroup<kTileWidth>& x, int row) {
  add_dots<T, kRows>(acc, group, x, row, [&]<int kFirst, int kLast>(I32x16* sums) {
    dot_steps<T, kFirst, kLast, kRows>(sums, group, x, row);
  });
}

// Adds the groups [first, last) of k to kTiles tiles of kRows x 16 outputs, which start at zero with group 0. Rows of outputs are
// `stride` apart and have n_valid of the 16.
template <class Source, int kRows, int kTiles>
void multiply(const Source& source, const uint8_t* x, int64_t tile_groups, int64_t first, int64_t last, float* out,
              int64_t stride, int64_t n_valid) {
  using T = typename Source::Meaning;
  constexpr int kTogether = kRows < kQuantChains ? kRows : kQuantChains;
  F32x16 acc[kTiles * kRows];
  for (int r = 0; r < kTiles * kRows; ++r) acc[r] = first == 0 ? set1(0.0f) : load_n(out + r * stride, n_valid);
  for (int64_t g = first; g < last; ++g) {
    Group<T> group;
    source.read(g, group);
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) {
      const auto& rows = reinterpret_cast<const TileGroup<kRows>*>(x)[t * tile_groups + g];
      for (int r = 0; r < kRows; r += kTogether) add_group<T, kTogether>(acc + t * kRows + r, group, rows, r);
    }
  }
  for (int r = 0; r < kTiles * kRows; ++r) store_n(out + r * stride, acc[r], n_valid);
}

template <class Source, int kRows>
void multiply_tile(int width, const Source& source, const uint8_t* x, int64_t first, int64_t last, float* out, int64_t stride,
                   int64_t n_valid) {
  if (width == kRows) return multiply<Source, kRows, 1>(source, x, 0, first, last, out, stride, n_valid);
  if constexpr (kRows > 1) multiply_tile<Source, kRows / 2>(width, source, x, first, last, out, stride, n_valid);
}

// The rows [first, last) of a row group, over the groups [g_first, g_last) of k: as many tiles at a time as registers hold.
template <class Source>
void multiply_rows(const Source& source, const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last,
                   int64_t g_first, int64_t g_last, int64_t row_group, float* out) {
  const int64_t n = n_groups(w.n_in), column = row_group * kRowGroup, n_valid = std::min(kRowGroup, w.n_out - column);
  for (int64_t row = first; row < last;) {
    const uint8_t* tiles = x + row * n * kTileGroupBytes;
    float* to = out + row * w.n_out + column;
    const auto take = [&]<int kTiles>() {
      if (row + kTiles * kVectorRows > last) return false;
      multiply<Source, kVectorRows, kTiles>(source, tiles, n, g_first, g_last, to, w.n_out, n_valid);
      row += kTiles * kVectorRows;
      return true;
    };
    if constexpr (kQuantTiles >= 4) {
      if (take.template operator()<4>()) continue;
    }
    if constexpr (kQuantTiles >= 2) {
      if (take.template operator()<2>()) continue;
    }
    const int width = tile_width(row, n_rows, kQuantRows);
    multiply_tile<Source, kVectorRows>(width, source, tiles, g_first, g_last, to, w.n_out, n_valid);
    row += width;
  }
}

template <class C>
void row_group_linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t row_group,
                      float* out, uint8_t* scratch) {
  using T = typename C::Meaning;
  const int64_t n = n_groups(w.n_in);
  const PackedSource<C> packed(w, row_group);
  if (C::kBits == 8 || last - first <= kDirectRows) {  // codes of 8 bits need no unpacking
    return multiply_rows(packed, w, x, n_rows, first, last, 0, n, row_group, out);
  }
  for (int64_t g_first = 0; g_first < n; g_first += kPanelGroups) {
    const int64_t g_last = std::min(n, g_first + kPanelGroups);
    const PanelSource<T> panel{reinterpret_cast<Unpacked<T>*>(scratch), g_first};
    for (int64_t g = g_first; g < g_last; ++g) {
      Group<T> group;
      packed.read(g, group);
      panel.panel[g - g_first].write(group);
    }
    multiply_rows(panel, w, x, n_rows, first, last, g_first, g_last, row_group, out);
  }
}

// Adds the outliers of the rows [first, last) to their outputs of one row group.
template <class C>
void add_outliers(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t row_group,
                  float* out) {
  const PackedSource<C> source(w, row_group);
  const int64_t column = row_group * kRowGroup, n_valid = std::min(kRowGroup, w.n_out - column);
  for (int64_t row = first; row < last; ++row) {
    const RowOutliers outliers = row_outliers(const_cast<uint8_t*>(x), n_rows, w.n_in, row);
    if (outliers.n == 0) continue;
    float* to = out + row * w.n_out + column;
    F32x16 acc = load_n(to, n_valid);
    for (int64_t i = 0; i < outliers.n; ++i) acc = source.add(acc, outliers.list[i]);
    store_n(to, acc, n_valid);
  }
}

// sum plus the sum over the steps [kFirst, kLast) of code * q, of one row, each step read when it is needed.
template <class C, int kFirst, int kLast>
[[gnu::always_inline]] inline I32x16 dot_packed(I32x16 sum, const uint8_t* payload, const uint8_t* scales, const int8_t* q) {
  constexpr int kRun = narrow_steps(C::Meaning::kMostCode);
  PairSums pairs;
  for_steps([&]<int kStep>() __attribute__((always_inline)) {
    if constexpr (kStep >= kFirst && kStep < kLast) {
      const U8x64 codes = C::template read_step<kStep>(payload, scales);
      if constexpr (kRun > 1) {
        constexpr int kAt = (kStep - kFirst) % kRun;
        const PairSums more = pair_sums(codes, q + 4 * kStep);
        pairs = kAt == 0 ? more : add(pairs, more);
        if constexpr (kAt == kRun - 1 || kStep == kLast - 1) sum = add(sum, pairs);
      } else {
        sum = dot_codes<typename C::Meaning>(sum, codes, q + 4 * kStep);
      }
    }
  });
  return sum;
}

// A single row times row groups, `apart` from one to the next: so many runs of memory are read at a time.
template <class C, size_t... kRun>
void multiply_runs(const WeightView& w, const uint8_t* x, int64_t row_group, int64_t apart, float* out, std::index_sequence<kRun...>) {
  using T = typename C::Meaning;
  const PackedSource<C> sources[] = {PackedSource<C>(w, row_group + static_cast<int64_t>(kRun) * apart)...};
  const auto* rows = reinterpret_cast<const TileGroup<1>*>(x);
  F32x16 acc[sizeof...(kRun)];
  for (F32x16& a : acc) a = set1(0.0f);
  for (int64_t g = 0; g < n_groups(w.n_in); ++g) {
    const auto add_run = [&]<size_t kAt>() __attribute__((always_inline)) {
      const PackedSource<C>& source = sources[kAt];
      const uint8_t *payload = source.payload + g * C::kPayloadBytes, *scales = source.scales_of(g);
      Group<T> group;
      C::read_scales(source.heads + g / kHeadGroups * source.head_bytes, scales, group);
      add_dots<T, 1>(acc + kAt, group, rows[g], 0, [&]<int kFirst, int kLast>(I32x16* sum) __attribute__((always_inline)) {
        *sum = dot_packed<C, kFirst, kLast>(*sum, payload, scales, rows[g].q[0]);
      });
    };
    (add_run.template operator()<kRun>(), ...);
  }
  const auto store_run = [&](size_t at) {
    const int64_t column = (row_group + static_cast<int64_t>(at) * apart) * kRowGroup;
    store_n(out + column, acc[at], std::min(kRowGroup, w.n_out - column));
  };
  (store_run(kRun), ...);
}

template <class C>
void linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
            int64_t group_last, float* out, uint8_t* scratch) {
  int64_t first_row = first, first_group = group_first;
#if defined(SAMOVAR_USE_AMX)
  first_row = AmxLinear<C, PackedSource<C>>::rows(w, x, first, last, group_first, group_last, out, scratch);
#endif
  if constexpr (kRuns > 1) {
    if (n_rows == 1) {
      const int64_t apart = (group_last - group_first) / static_cast<int64_t>(kRuns);
      for (int64_t i = 0; i < apart; ++i) multiply_runs<C>(w, x, group_first + i, apart, out, std::make_index_sequence<kRuns>());
      first_group += apart * static_cast<int64_t>(kRuns);
    }
  }
  for (int64_t row_group = group_first; row_group < group_last; ++row_group) {
    if (row_group >= first_group) row_group_linear<C>(w, x, n_rows, first_row, last, row_group, out, scratch);
    add_outliers<C>(w, x, n_rows, first, last, row_group, out);
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
    case Type::kIQ1_S:
      return run.template operator()<CodecIQ1_S>();
    case Type::kIQ1_M:
      return run.template operator()<CodecIQ1_M>();
    case Type::kIQ2_XXS:
      return run.template operator()<CodecIQ2_XXS>();
    case Type::kIQ2_XS:
    case Type::kIQ2_S:
      return run.template operator()<CodecIQ2_S>();
    case Type::kIQ3_XXS:
      return run.template operator()<CodecIQ3_XXS>();
    case Type::kIQ3_S:
      return run.template operator()<CodecIQ3_S>();
    case Type::kTQ1_0:
    case Type::kTQ2_0:
      return run.template operator()<CodecTQ>();
    case Type::kQ1_0:
      return run.template operator()<CodecQ1_0>();
    case Type::kQ2_0:
      return run.template operator()<CodecQ2_0>();
    case Type::kMXFP4:
      return run.template operator()<CodecMXFP4>();
    case Type::kU4_32:
    case Type::kU4_64:
    case Type::kU4_128:
      return run.template operator()<CodecU4>();
    case Type::kU8_32:
    case Type::kU8_64:
    case Type::kU8_128:
      return run.template operator()<CodecU8>();
    case Type::kNVFP4:
      return run.template operator()<CodecNVFP4>();
    default:
      return;  // float types go to float_linear
  }
}

// Groups whose largest magnitude is below 1e-30 count as zero: its reciprocal would overflow.
void quantise_rows(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles_out) {
  const int64_t n = n_groups(n_in);
  const I32x16 zero = set1_i32(0);
  for (int64_t row = first; row < last; ++row) {
    const auto [start, width] = tile_of(row, n_rows, kQuantRows);
    const int64_t r = row - start;
    const float* source = x + row * n_in;
    uint8_t* tile_group = tiles_out + start * n * kTileGroupBytes;
    const RowOutliers outliers = row_outliers(tiles_out, n_rows, n_in, row);
    outliers.n = 0;
    const float limit = outlier_limit(source, n_in);
    for (int64_t g = 0; g < n; ++g, source += kGroup, tile_group += width * kTileGroupBytes) {
      auto* q = reinterpret_cast<int8_t*>(tile_group) + r * kGroup;
      auto* d = reinterpret_cast<float*>(tile_group + width * kGroup) + r;
      auto* n_sums = reinterpret_cast<int32_t*>(tile_group + width * (kGroup + 8)) + r;
      const F32x16 a = load(source), b = load(source + 16), size_a = abs(a), size_b = abs(b);
      const float largest = largest_of(max(as_i32(size_a), as_i32(size_b)));
      const bool has_high = largest > limit;
      float reach = largest;
      if (has_high) {
        const float ordinary = largest_of(max(as_i32(at_most(size_a, limit)), as_i32(at_most(size_b, limit))));
        reach = std::max(ordinary, largest / (kMostHigh + 1));
      }
      const bool is_zero = reach < kLeastReach;
      const F32x16 scale = set1(is_zero ? 0.0f : kLargestCode / reach);
      I32x16 q_first = to_i32(round_even(mul(a, scale))), q_second = to_i32(round_even(mul(b, scale)));
      d[0] = is_zero ? 0.0f : reach * (1.0f / kLargestCode);
      if (has_high) take_outliers(q_first, q_second, g, d[0], outliers);
      store_i8(q, q_first);
      store_i8(q + 16, q_second);
      const int32_t n_sum_first = sum_lanes(sub(zero, q_first)), n_sum = n_sum_first - sum_lanes(q_second);
      d[width] = d[0] * static_cast<float>(-n_sum);
      n_sums[0] = n_sum;
      n_sums[width] = n_sum_first;
    }
  }
}

void copy_row(const uint8_t* from, int64_t n_from, int64_t from_row, int64_t n_in, uint8_t* to, int64_t n_to, int64_t to_row) {
  const auto [from_start, from_width] = tile_of(from_row, n_from, kQuantRows);
  const auto [to_start, to_width] = tile_of(to_row, n_to, kQuantRows);
  const int64_t n = n_groups(n_in), from_at = from_row - from_start, to_at = to_row - to_start;
  const uint8_t* source = from + from_start * n * kTileGroupBytes;
  uint8_t* target = to + to_start * n * kTileGroupBytes;
  for (int64_t g = 0; g < n; ++g, source += from_width * kTileGroupBytes, target += to_width * kTileGroupBytes) {
    std::memcpy(target + to_at * kGroup, source + from_at * kGroup, kGroup);
    for (int field = 0; field < 4; ++field) {  // d, d_sum, n_sum, n_sum_first
      std::memcpy(target + to_width * (kGroup + 4 * field) + 4 * to_at, source + from_width * (kGroup + 4 * field) + 4 * from_at, 4);
    }
  }
  const RowOutliers read = row_outliers(const_cast<uint8_t*>(from), n_from, n_in, from_row), written = row_outliers(to, n_to, n_in, to_row);
  written.n = read.n;
  std::memcpy(written.list, read.list, static_cast<size_t>(read.n) * sizeof(Outlier));
}

}  // namespace samovar::SAMOVAR_ISA
