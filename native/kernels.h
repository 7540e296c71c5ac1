// The kernels that are compiled once per instruction set, as a table of functions. All are single-threaded and take ranges
// of work; ops.cpp splits work over threads. No result depends on how the work is split.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats.h"
#include "sample.h"

namespace samovar {

// A packed weight; pointers lie 64-byte aligned. Layout: formats.h (quantised), or [row group][n_in][16] in the storage type.
struct WeightView {
  const Format* format;
  int64_t n_out, n_in;
  const uint8_t* payload;
  const uint8_t* heads;
  const uint8_t* scales;
  const float* row_scales;  // of int4, else null
  const int32_t* order;     // [n_in]: column j is multiplied with input order[j]; null for j itself. Operations bring rows into it.
};

// Input rows are regrouped in tiles of 16, 8, 4, 2 and 1 rows (at most the instruction set's tile), largest first.
// Quantised tile of W rows: a TileGroup<W> for each group of 32 k, where x ~ d * (q + 128 high), n_sum = -sum(q), n_sum_first =
// -sum of the first 16, d_sum = d * sum(q). `high` is 0 but for outliers: values of more than 4 times their row's root mean
// square. The other values of a group decide its d (unless the largest outlier would need a `high` above 127), so that an outlier
// does not take their 8 bits away. The high parts follow behind all tiles: int32_t n[n_rows], and a list for each row (RowOutliers).
// int4 tile of W rows: int8_t q[W][64] for each 64 k, and behind all tiles float d[n_rows], int32_t n_sum[n_rows] and the same of
// outliers: a row has one d, which its largest value decides that is no outlier. Float tile: float x[n_in][W].
inline constexpr int64_t kTileGroupBytes = 48;  // one row, one group
inline constexpr int64_t kMaxTileRows = 16;     // of any instruction set: callers cut rows at multiples of it
inline constexpr int kHighBits = 7;             // what the high parts are shifted by

template <int kRows>
struct TileGroup {
  int8_t q[kRows][kGroup];
  float d[kRows];
  float d_sum[kRows];
  int32_t n_sum[kRows];
  int32_t n_sum_first[kRows];
};
static_assert(sizeof(TileGroup<8>) == 8 * kTileGroupBytes);

// The outliers of one row, k ascending: four k of which one has a high part; those of a step, see formats.h.
struct Outlier {
  int32_t at;  // 8 group + step
  int8_t high[4];
  int32_t n_sum;  // -sum(high)
  float d;        // 128 times the group's: x ~ d * high
};
struct RowOutliers {
  int32_t& n;
  Outlier* list;
};

enum class KvKind : int { kF32, kF16, kBF16, kI8 };

struct KvView {
  KvKind kind;
  int64_t n_kv_heads, d_head;
  uint8_t* k_PGKB;
  uint8_t* v_PGBK;
  float* k_scale_PGB;  // of int8 pages, else null: value = code * scale
  float* v_scale_PGB;
};

inline constexpr int64_t kPageTokens = 32;
inline constexpr int64_t kPartitionPages = 8;  // keys are summed in partitions of 256, then partitions in order
inline constexpr int64_t kPartitionKeys = kPageTokens * kPartitionPages;
inline constexpr int64_t kItemLanes = 96;  // most lanes of a call: whole tiles of 12 or 3, which share each widened page

// One sequence's queries for one kv head: lane l is row l / n_group, query head first_head + l % n_group.
struct AttendView {
  const float* q_THK;  // of the sequence's first row
  float* out_THK;
  int64_t n_heads, n_group, kv_head;
  int64_t position;      // of the first row
  const int32_t* pages;  // page table of the sequence
  float scale;
  int64_t window;  // a row sees so many keys at most, its own the last of them
  KvView kv;
};

inline constexpr int64_t kMostTaps = 16, kMostKeyWidth = 256;  // of delta nets
inline constexpr int64_t kMemoryColumns = 32;  // of a head's memory, which are computed together

// A gated delta net over one sequence's rows: x_TM holds queries and keys of n_key_heads, then values of n_heads; gates_TM b, then a.
struct DeltaView {
  const float *x_TM, *gates_TM, *rate_H, *bias_H;
  float* out_THU;
  int64_t n_key_heads, n_heads, d_key, d_value;
};

struct Kernels {
  // Regroup and quantise x[first .. last) into `tiles`, which holds all rows.
  void (*quantise_rows)(const float* x_TD, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles);
  // Copy row `from_row` of the quantised tiles of n_from rows: it becomes row `to_row` of those of n_to rows.
  void (*copy_row)(const uint8_t* from, int64_t n_from, int64_t from_row, int64_t n_in, uint8_t* to, int64_t n_to, int64_t to_row);
  void (*quantise_whole_rows)(const float* x_TD, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles);
  void (*tile_rows_f32)(const float* x_TD, int64_t n_rows, int64_t n_in, int64_t first, int64_t last, uint8_t* tiles);

  // out[t, 16 g ..] for rows t in [first, last) and row groups g in [group_first, group_last). Each output is the sum over k
  // groups in ascending order of fma(exact integer dot of q, weight scale * d, sum), then fma(minimum, d_sum, sum) where there is
  // one, for each scale of the group; then the same over the row's outliers in their order, with `high` and its d.
  // `scratch`: panel_bytes(n_in), 64-byte aligned.
  void (*quant_linear)(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last,
                       int64_t group_first, int64_t group_last, float* out_TN, uint8_t* scratch);
  // int4: exact integer dot over all k, times (row scale * d); then fma(exact dot of `high`, row scale * its d, sum) over the
  // row's outliers in their order.
  void (*int4_linear)(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last,
                      int64_t group_first, int64_t group_last, float* out_TN, uint8_t* scratch);
  // A row of int4 weights as `samovar.kernels.int4` defines it: n codes, n / 32 bytes (multiplier + 16 zero code) and the scale.
  // `importance`, which may be null, has a positive weight for each value. Returns whether all values are finite; what is written
  // otherwise means nothing.
  bool (*quantise_int4)(const float* row, const float* importance, int64_t n, uint8_t* codes, uint8_t* bytes, float* scale);
  // n values of a row as blocks of the format, as `samovar.kernels.quantise` defines them; `importance` has a positive weight for
  // each. Returns whether the format is one that rows can be quantised to; n is a multiple of its block, and n = 0 only asks.
  bool (*quantise_blocks)(const Format& format, const float* row, const float* importance, int64_t n, uint8_t* out);
  // Float weights: products are fused into sums of 64 k, and those added in ascending order. 8-bit floats: sums of 64 k, or of a
  // block of 32, each fused into the total times the block's scale.
  void (*float_linear)(const WeightView& w, const uint8_t* tiles, int64_t n_rows, int64_t first, int64_t last,
                       int64_t group_first, int64_t group_last, float* out_TN, uint8_t* scratch);

  // Rows of width n_in; out may be x. Sums of squares in 16 float lanes, then a fixed tree.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n_rows, int64_t n_in, float* out);
  void (*rope)(const float* x_THK, const float* cos_TR, const float* sin_TR, int64_t n_tokens, int64_t n_heads, int64_t d_head,
               int64_t n_pairs, float* out_THK);
  void (*silu_gate)(const float* gate, const float* up, int64_t n, float* out);
  // gelu(gate) * up by the tanh formula: gate / (1 + exp(-2 u)) * up, u = sqrt(2 / pi) * (gate + 0.044715 gate^3).
  void (*gelu_gate)(const float* gate, const float* up, int64_t n, float* out);
  void (*add_scaled)(const float* x, float scale, int64_t n, float* out);  // out += scale * x, both rounded
  // Each gate's x, n_each of them, times 1 / (1 + exp(-gate)).
  void (*sigmoid_gate)(const float* gate, const float* x, int64_t n_gates, int64_t n_each, float* out);
  // Of channels [first, last) of one sequence: the sum over j of taps [n_taps, n_channels] times the inputs before and of each token,
  // fused, oldest first; times its sigmoid. `inputs` [n_taps - 1, n_channels] are the last ones, and go on; they count as zero where
  // the first row is a sequence's first. out is not x.
  void (*convolve)(const float* x_TM, const float* taps_JM, int64_t n_taps, int64_t n_channels, int64_t first, int64_t last,
                   int64_t n_tokens, bool is_first, float* inputs, float* out_TM);
  // kMemoryColumns columns, from `first` on, of the memory [d_key, d_value] of one head, token by token. With
  // decay = exp(-rate * softplus(a + bias)): found = (k memory) * decay; memory = fma(k, (v - found) * sigmoid(b), memory * decay);
  // out = q memory. Sums over k are fused, even and odd rows apart, ascending, then added to each other. k is multiplied with
  // 1 / sqrt(sum of squares + 1e-6) (16 lanes, a fixed tree), q also with 1 / sqrt(d_key).
  void (*delta_rule)(const DeltaView& d, int64_t head, int64_t first, int64_t n_tokens, bool is_first, float* memory);
  // Of one token's logits [n_experts]: ids of the n_chosen largest, largest first, equal ones in ascending order of ids; and
  // their weights, exp(logit - largest) over the sum of all of these (16 lanes, ascending, then a fixed tree), and where they are
  // renormalised, over the sum of the chosen in their order. A logit that is no number makes all weights no number.
  void (*route)(const float* logits, int64_t n_experts, int64_t n_chosen, bool is_renormalised, int32_t* ids, float* weights);
  // Rounded to nearest even. float16: finite values beyond 65504 become 65504. int8: a row of one token and head takes the
  // scale max |x| / 127, codes are x / scale; a row that holds an infinity or no number takes codes 0 and a scale of no number.
  void (*write_kv)(const float* k_TGK, const float* v_TGK, const KvView& kv, const int64_t* slots, int64_t n_tokens,
                   int64_t head_first, int64_t head_last);

  // Continue the `states` (lanes x state_floats(d_head)) of lanes [first, last) with the keys of partitions
  // [part_first, part_last); at most kItemLanes of them. `scratch`: attend_scratch_bytes(d_head).
  void (*attend)(const AttendView& a, int64_t first, int64_t last, int64_t part_first, int64_t part_last, float* states,
                 uint8_t* scratch);
  void (*start_states)(int64_t n, int64_t d_head, float* states);
  // state = state joined with `other`, which covers later keys.
  void (*merge_states)(int64_t n, int64_t d_head, float* states, const float* other);
  // Divide by the sum of weights and write the lanes [first, last) to out.
  void (*finish_states)(const AttendView& a, int64_t first, int64_t last, const float* states);

  // Sampling, over a block of kSampleBlock logits, or the n that are left (sample.h). maxima[j] = the largest of x[j],
  // x[j + 16], ..., and whether there is no NaN.
  bool (*lane_maxima)(const float* x, int64_t n, float* maxima);
  // The weights of a block, 0 where below `floor` and past its end; and their sum, which is exact.
  double (*weigh)(const float* x, int64_t n, float top, double inverse_temperature, double floor, double* weights);

  // Probes of the machine's limits: read n bytes (a multiple of 256), and n_rounds of 16 dots of 64 bytes: codes [256] with
  // x [16]; see machine_limits.h.
  uint8_t (*read_all)(const uint8_t* p, int64_t n);
  int32_t (*dot_many)(const uint8_t* codes, const int8_t* x, int64_t n_rounds);
};

// Sizes that callers provide for.
inline int64_t n_groups(int64_t n_in) { return n_in / kGroup; }
inline int64_t n_row_groups(int64_t n_out) { return (n_out + kRowGroup - 1) / kRowGroup; }
// A row's list, and a line: lists a power of two apart would meet in few places of a cache.
inline int64_t outliers_bytes(int64_t n_in) { return 64 + n_in / 4 * static_cast<int64_t>(sizeof(Outlier)); }
// Those of a row, of all that begin at `memory`.
inline RowOutliers outliers_at(uint8_t* memory, int64_t n_rows, int64_t n_in, int64_t row) {
  int32_t* counts = reinterpret_cast<int32_t*>(memory);
  return {counts[row], reinterpret_cast<Outlier*>(memory + n_rows * 4 + row * outliers_bytes(n_in))};
}
inline int64_t tile_bytes(int64_t n_rows, int64_t n_in) {
  return n_rows * (n_groups(n_in) * kTileGroupBytes + 4 + outliers_bytes(n_in));
}
inline RowOutliers row_outliers(uint8_t* tiles, int64_t n_rows, int64_t n_in, int64_t row) {
  return outliers_at(tiles + n_rows * n_groups(n_in) * kTileGroupBytes, n_rows, n_in, row);
}
struct WholeRows {  // where the parts of int4 tiles lie
  int8_t* q;
  float* d;
  int32_t* n_sum;
  uint8_t* outliers;
  int64_t n_rows, n_in;
  WholeRows(uint8_t* tiles, int64_t n_rows_, int64_t n_in_)
      : q(reinterpret_cast<int8_t*>(tiles)),
        d(reinterpret_cast<float*>(q + n_rows_ * n_in_)),
        n_sum(reinterpret_cast<int32_t*>(d + n_rows_)),
        outliers(reinterpret_cast<uint8_t*>(n_sum + n_rows_)),
        n_rows(n_rows_),
        n_in(n_in_) {}
  RowOutliers outliers_of(int64_t row) const { return outliers_at(outliers, n_rows, n_in, row); }
};
inline int64_t whole_row_bytes(int64_t n_rows, int64_t n_in) { return n_rows * (n_in + 12 + outliers_bytes(n_in)); }
inline int64_t float_tile_bytes(int64_t n_rows, int64_t n_in) { return n_rows * n_in * 4; }
inline constexpr int64_t kMaxUnpackedBytes = kGroup * kRowGroup + 4 * kRowGroup * 4;  // of a group of 16 rows: codes, two scales and minima
inline int64_t panel_bytes(int64_t n_in) { return 2 * n_groups(n_in) * kMaxUnpackedBytes; }
// A state is the running maximum, the sum of weights, padding, and the weighted sum of values (padded to whole vectors).
inline int64_t padded_head(int64_t d_head) { return (d_head + 15) / 16 * 16; }
inline int64_t state_floats(int64_t d_head) { return 16 + padded_head(d_head); }
inline int64_t attend_scratch_bytes(int64_t d_head) {
  return 4 * (kItemLanes * (kPartitionKeys + 2 * padded_head(d_head)) + kPageTokens * padded_head(d_head));
}

// Tables, one for each instruction set that this build holds (cpu.cpp).
namespace scalar {
const Kernels& kernels();
}
namespace avx2 {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}
namespace amx {
const Kernels& kernels();
}
namespace amx_emulated {  // in the tests' build alone
const Kernels& kernels();
}
namespace neon {
const Kernels& kernels();
}
namespace neon_dot {
const Kernels& kernels();
}

}  // namespace samovar
