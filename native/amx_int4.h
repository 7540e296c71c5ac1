// int4 linear layers for many rows on AMX: the same integers as on vectors (int4_linear.cpp), summed over all k in tile registers.
#pragma once

#include <cstdint>

#include "amx_tile.h"
#include "formats.h"

namespace samovar::SAMOVAR_ISA {

// Two tiles of 16 rows by two row groups at once, so that each tile that is loaded serves two products of 64 k.
class AmxInt4 {
  static constexpr int64_t kRows = 16;
  static constexpr int kA = 4, kB = 6;  // the first registers of inputs and weights; sums are in 0 to 3

 public:
  // Whole tiles of rows in [first, last): `unpack(row_group, panel)` writes the n_in / 4 steps of 64 bytes of a row group,
  // `finish(sums, row, row_group)` takes 16 sums. Returns the first row that is left over. `scratch`: 32 n_in bytes.
  template <class Unpack, class Finish>
  static int64_t rows(const int8_t* q, int64_t n_in, int64_t first, int64_t last, int64_t group_first, int64_t group_last,
                      uint8_t* scratch, Unpack unpack, Finish finish) {
    const int64_t end = first + (last - first) / kRows * kRows;
    if (end == first) return first;
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.rows[i] = kRows, config.row_bytes[i] = 64;
    Tiles tiles(config);
    for (int64_t g = group_first; g < group_last; g += 2) {
      const int n_columns = g + 1 < group_last ? 2 : 1;
      for (int c = 0; c < n_columns; ++c) unpack(g + c, scratch + c * n_in * 16);
      for (int64_t row = first; row < end; row += 2 * kRows) {
        const int n_tiles = row + kRows < end ? 2 : 1;
        alignas(64) int32_t sums[2][2][kRows][16];
        multiply(tiles, q + row * n_in, n_in, scratch, n_tiles, n_columns, sums);
        for (int t = 0; t < n_tiles; ++t) {
          for (int c = 0; c < n_columns; ++c) {
            for (int64_t m = 0; m < kRows; ++m) finish(sums[t][c][m], row + t * kRows + m, g + c);
          }
        }
      }
    }
    return end;
  }

 private:
  static void multiply(Tiles& tiles, const int8_t* q, int64_t n_in, const uint8_t* panel, int n_tiles, int n_columns,
                       int32_t (&sums)[2][2][kRows][16]) {
    tiles.zero<0>(), tiles.zero<1>(), tiles.zero<2>(), tiles.zero<3>();
    for (int64_t k = 0; k < n_in; k += kInt4Unit) {
      tiles.load<kB>(panel + k * 16, 64);
      tiles.load<kA>(q + k * kRows, kInt4Unit);
      tiles.multiply<0, kA, kB>();
      if (n_columns == 2) {
        tiles.load<kB + 1>(panel + (n_in + k) * 16, 64);
        tiles.multiply<1, kA, kB + 1>();
      }
      if (n_tiles == 2) {
        tiles.load<kA + 1>(q + (n_in + k) * kRows, kInt4Unit);
        tiles.multiply<2, kA + 1, kB>();
        if (n_columns == 2) tiles.multiply<3, kA + 1, kB + 1>();
      }
    }
    tiles.store<0>(sums[0][0], 64), tiles.store<1>(sums[0][1], 64);
    tiles.store<2>(sums[1][0], 64), tiles.store<3>(sums[1][1], 64);
  }
};

}  // namespace samovar::SAMOVAR_ISA
