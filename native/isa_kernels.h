// The kernels of kernels.h, declared for one instruction set (the namespace is a macro that the build sets).
#pragma once

#include "kernels.h"
#include "simd.h"

namespace samovar::SAMOVAR_ISA {

// How many rows the tile that starts at `row` holds, at most `width`, and so where the next one starts.
inline int tile_width(int64_t row, int64_t n_rows, int width) {
  while (width > n_rows - row) width /= 2;
  return width;
}

// Which tile a row is in: where it starts, and its rows.
struct TileOf {
  int64_t start, width;
};
inline TileOf tile_of(int64_t row, int64_t n_rows, int most) {
  int64_t start = row / most * most;
  int width = tile_width(start, n_rows, most);
  while (row >= start + width) {
    start += width;
    width = tile_width(start, n_rows, width);
  }
  return {start, width};
}

void quant_linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
                  int64_t group_last, float* out, uint8_t* scratch);
void quantise_rows(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles);
void copy_row(const uint8_t* from, int64_t n_from, int64_t from_row, int64_t n_in, uint8_t* to, int64_t n_to, int64_t to_row);

void int4_linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
                 int64_t group_last, float* out, uint8_t* scratch);
void quantise_whole_rows(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles);
bool quantise_blocks(const Format& format, const float* x, const float* importance, int64_t n, uint8_t* out);
bool quantise_int4(const float* row, const float* importance, int64_t n, uint8_t* codes, uint8_t* bytes, float* scale);

void float_linear(const WeightView& w, const uint8_t* x, int64_t n_rows, int64_t first, int64_t last, int64_t group_first,
                  int64_t group_last, float* out, uint8_t* scratch);
void tile_rows_f32(const float* x, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles);

void rms_norm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t n_in, float* out);
void rope(const float* x, const float* cos, const float* sin, int64_t n_tokens, int64_t n_heads, int64_t d_head,
          int64_t n_pairs, float* out);
void silu_gate(const float* gate, const float* up, int64_t n, float* out);
void gelu_gate(const float* gate, const float* up, int64_t n, float* out);
void add_scaled(const float* x, float scale, int64_t n, float* out);
void sigmoid_gate(const float* gate, const float* x, int64_t n_gates, int64_t n_each, float* out);
void convolve(const float* x, const float* taps, int64_t n_taps, int64_t n_channels, int64_t first, int64_t last, int64_t n_tokens,
              bool is_first, float* inputs, float* out);
void delta_rule(const DeltaView& d, int64_t head, int64_t first, int64_t n_tokens, bool is_first, float* memory);
void route(const float* logits, int64_t n_experts, int64_t n_chosen, bool is_renormalised, int32_t* ids, float* weights);
void write_kv(const float* k, const float* v, const KvView& kv, const int64_t* slots, int64_t n_tokens,
              int64_t head_first, int64_t head_last);

void attend(const AttendView& a, int64_t first, int64_t last, int64_t part_first, int64_t part_last, float* states,
            uint8_t* scratch);
void start_states(int64_t n, int64_t d_head, float* states);
void merge_states(int64_t n, int64_t d_head, float* states, const float* other);
void finish_states(const AttendView& a, int64_t first, int64_t last, const float* states);

bool lane_maxima(const float* x, int64_t n, float* maxima);
double weigh(const float* x, int64_t n, float top, double inverse_temperature, double floor, double* weights);

uint8_t read_all(const uint8_t* p, int64_t n);
int32_t dot_many(const uint8_t* codes, const int8_t* x, int64_t n_rounds);

}  // namespace samovar::SAMOVAR_ISA
