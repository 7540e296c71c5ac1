// Quantised linear layers for many rows on AMX. Same packed weights, same integers, and the same float steps in the same order as
// the path on vectors (quant_linear.cpp), so the same bits.
//
// A tile product takes 16 input rows by one group of 32 k (of 16 k where a group has two scales) and by the 16 rows of a row
// group: A is `q` of a TileGroup<16>, B is 8 (or 4) steps of unpacked codes as they lie in a panel, and the 16 x 16 sums go through
// memory into vectors, where scales are applied and the group joins the float sums. Two tiles of rows and two row groups are
// taken at once, so that each tile that is loaded serves two products.
#pragma once

#include "amx_tile.h"
#include "codecs.h"
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {

inline constexpr int kAmxRows = 16;
static_assert(kQuantRows == kAmxRows);

// The AMX path of one codec. Source reads row groups as they are packed: Source(w, row_group).read(g, group).
template <class C, class Source>
class AmxLinear {
  using T = typename C::Meaning;
  static constexpr int kScales = T::kScales;
  static constexpr int kSteps = 8 / kScales;                // of 4 k, in one tile product
  static constexpr int kSumTile = 0, kATile = 4, kBTile = 6;  // the first of the registers for sums (2 x 2), inputs, weights

  using Sums = int32_t[16][16];

 public:
  // Rows of whole tiles in [first, last), and row groups [group_first, group_last). Returns the first row that is left over.
  static int64_t rows(const WeightView& w, const uint8_t* x, int64_t first, int64_t last, int64_t group_first,
                      int64_t group_last, float* out, uint8_t* scratch) {
    const int64_t end = first + (last - first) / kAmxRows * kAmxRows;
    if (end == first) return first;
    TileConfig config;
    for (int i = 0; i < 4; ++i) config.rows[kSumTile + i] = kAmxRows, config.row_bytes[kSumTile + i] = 64;
    for (int i = 0; i < 2; ++i) {
      config.rows[kATile + i] = kAmxRows, config.row_bytes[kATile + i] = 4 * kSteps;
      config.rows[kBTile + i] = kSteps, config.row_bytes[kBTile + i] = 64;
    }
    Tiles tiles(config);
    static_assert(sizeof(Unpacked<T>) <= kMaxUnpackedBytes);
    auto* panel = reinterpret_cast<Unpacked<T>*>(scratch);
    for (int64_t row_group = group_first; row_group < group_last; row_group += 2) {
      if (row_group + 1 < group_last) {
        columns<2>(tiles, w, x, first, end, row_group, out, panel);
      } else {
        columns<1>(tiles, w, x, first, end, row_group, out, panel);
      }
    }
    return end;
  }

 private:
  template <int kColumns>
  static void columns(Tiles& tiles, const WeightView& w, const uint8_t* x, int64_t first, int64_t end, int64_t row_group,
                      float* out, Unpacked<T>* panel) {
    for (int c = 0; c < kColumns; ++c) {
      const Source source(w, row_group + c);
      for (int64_t g = 0; g < n_groups(w.n_in); ++g) {
        Group<T> group;
        source.read(g, group);
        panel[g * kColumns + c].write(group);
      }
    }
    int64_t row = first;
    for (; row + 2 * kAmxRows <= end; row += 2 * kAmxRows) block<2, kColumns>(tiles, w, x, row, row_group, out, panel);
    if (row < end) block<1, kColumns>(tiles, w, x, row, row_group, out, panel);
  }

  template <int kTiles, int kColumns>
  static void block(Tiles& tiles, const WeightView& w, const uint8_t* x, int64_t row, int64_t row_group, float* out,
                    const Unpacked<T>* panel) {
    alignas(64) float acc[kTiles][kColumns][16][16] = {};
    alignas(64) Sums sums[kTiles][kColumns];
    const int64_t n = n_groups(w.n_in);
    const TileGroup<kAmxRows>* tile_groups[kTiles];
    for (int t = 0; t < kTiles; ++t) {
      tile_groups[t] = reinterpret_cast<const TileGroup<kAmxRows>*>(x + (row + t * kAmxRows) * n * kTileGroupBytes);
    }
    for (int64_t g = 0; g < n; ++g, panel += kColumns) {
      for (int s = 0; s < kScales; ++s) {
        tiles.template load<kBTile>(panel[0].codes[s * kSteps], 64);
        if constexpr (kColumns == 2) tiles.template load<kBTile + 1>(panel[1].codes[s * kSteps], 64);
        multiply<kTiles, kColumns>(tiles, [&](int t) { return tile_groups[t][g].q[0] + s * 16; }, sums);
        for (int t = 0; t < kTiles; ++t) {
          for (int c = 0; c < kColumns; ++c) fold(sums[t][c], tile_groups[t][g], panel[c], s, acc[t][c]);
        }
      }
    }
    for (int t = 0; t < kTiles; ++t) {
      for (int c = 0; c < kColumns; ++c) {
        const int64_t column = (row_group + c) * kRowGroup, left = w.n_out - column;
        for (int m = 0; m < kAmxRows; ++m) {
          store_n(out + (row + t * kAmxRows + m) * w.n_out + column, load(acc[t][c][m]), left < kRowGroup ? left : kRowGroup);
        }
      }
    }
  }

  // sums[t][c] = the tile of rows `a(t)` times the codes of column c, which lie in the registers already.
  template <int kTiles, int kColumns, class Rows>
  static void multiply(Tiles& tiles, Rows a, Sums (&sums)[kTiles][kColumns]) {
    tiles.template load<kATile>(a(0), kGroup);
    tiles.template zero<kSumTile>();
    tiles.template multiply<kSumTile, kATile, kBTile>();
    if constexpr (kColumns == 2) {
      tiles.template zero<kSumTile + 1>();
      tiles.template multiply<kSumTile + 1, kATile, kBTile + 1>();
    }
    if constexpr (kTiles == 2) {
      tiles.template load<kATile + 1>(a(1), kGroup);
      tiles.template zero<kSumTile + 2>();
      tiles.template multiply<kSumTile + 2, kATile + 1, kBTile>();
      if constexpr (kColumns == 2) {
        tiles.template zero<kSumTile + 3>();
        tiles.template multiply<kSumTile + 3, kATile + 1, kBTile + 1>();
      }
    }
    tiles.template store<kSumTile>(sums[0][0], 64);
    if constexpr (kColumns == 2) tiles.template store<kSumTile + 1>(sums[0][1], 64);
    if constexpr (kTiles == 2) tiles.template store<kSumTile + 2>(sums[1][0], 64);
    if constexpr (kTiles == 2 && kColumns == 2) tiles.template store<kSumTile + 3>(sums[1][1], 64);
  }

  // What the vector path does after its dot products, for the 16 rows of a tile and scale number `s` of the group.
  static inline void fold(const Sums& sums, const TileGroup<kAmxRows>& x, const Unpacked<T>& weights, int s, float (&acc)[16][16]) {
    const F32x16 scale = load(weights.scale[s]);
    for (int m = 0; m < kAmxRows; ++m) {
      const int32_t n_sum = kScales == 1 ? x.n_sum[m] : s == 0 ? x.n_sum_first[m] : x.n_sum[m] - x.n_sum_first[m];
      I32x16 sum = load_i32(sums[m]);
      if constexpr (T::kZeroShift >= 0) sum = add(sum, shl<T::kZeroShift>(set1_i32(n_sum)));
      const F32x16 d = set1(x.d[m]);
      if constexpr (T::kHasZero) sum = add(sum, mul(load_i32(weights.zero), set1_i32(n_sum)));
      F32x16 total = fma(to_f32(sum), mul(scale, d), load(acc[m]));
      if constexpr (T::kHasMinimum) {
        const F32x16 d_sum = kScales == 1 ? set1(x.d_sum[m]) : mul(to_f32(set1_i32(-n_sum)), d);
        total = fma(load(weights.minimum[s]), d_sum, total);
      }
      store(acc[m], total);
    }
  }
};

}  // namespace samovar::SAMOVAR_ISA
