// The operations: they split work over threads and call one instruction set's kernels. No Python types here.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <span>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pack.h"
#include "parallel.h"
#include "products.h"

namespace samovar {

// Rows of each sequence, as `Spans` in Python: row_starts [S + 1], positions [S], page_tables [S, width].
struct SpanView {
  const int32_t* row_starts;
  const int32_t* positions;
  const int32_t* page_tables;
  int64_t n_sequences, table_width;
};

// The states of a gated delta net layer, as `States` in Python, and each sequence's slot: inputs [Z, n_taps - 1, n_channels], memories
// [Z, n_heads, d_key, d_value], slots [S], no two the same.
struct StateView {
  float *inputs, *memories;
  const int32_t* slots;
};

// The rows [T, n_in] that a product takes: x itself; x normalised with the weight y [n_in]; silu(x) * y; or gelu(x) * y.
struct Rows {
  enum Kind { kPlain, kNormed, kGated, kGeluGated } kind;
  const float* x;
  const float* y;
  float eps;
};

// A layer of experts, n_experts of each matrix: gate and up [F, D], down [D, F].
struct ExpertsView {
  const PackedLinear *gate, *up, *down;
};

// Which experts compute each token: chosen [T, n_chosen], all of them ids of experts, and their weights [T, n_chosen].
struct Chosen {
  const int32_t* ids;
  const float* weights;
  int64_t n_chosen;
};

class Engine {
 public:
  // Counts the time that it lives as spent in operations.
  class Timer {
   public:
    explicit Timer(Engine& engine) : engine_(engine), start_(std::chrono::steady_clock::now()) {}
    ~Timer() { engine_.nanoseconds_.fetch_add((std::chrono::steady_clock::now() - start_).count(), std::memory_order_relaxed); }

   private:
    Engine& engine_;
    std::chrono::steady_clock::time_point start_;
  };

  Engine(const Kernels& kernels, int n_threads) : kernels_(kernels), pool_(n_threads) {}

  int n_threads() const { return pool_.n_threads(); }
  double seconds() const { return static_cast<double>(nanoseconds_.load(std::memory_order_relaxed)) * 1e-9; }
  // Keep the codebook of a type, of which each code has been checked; the first one stays.
  void take_codebook(const Format& format, std::span<const uint8_t> codes);
  // The codebook of a type, or null where it has none or none was given yet.
  const uint8_t* codebook(const Format& format) const;
  bool pack(PackedLinear& weight, const Members& members) { return samovar::pack(weight, members, arena_, pool_); }
  bool pack_int4(PackedLinear& weight, const Format& format, const Members& members) {
    return samovar::pack_int4(weight, format, members, kernels_, arena_, pool_);
  }
  // Rows [n_rows, n_in] as blocks of the format, see Kernels::quantise_blocks; whether the format is one that it writes.
  bool quantise(const Format& format, const float* x, const float* importance, int64_t n_rows, int64_t n_in, uint8_t* out);
  // out[t] = row ids[t] of a stored [V, n_in] table, times `scale`. The ids are in range; the type's codebook is here.
  void embed(const Format& format, const uint8_t* table, int64_t n_in, const int64_t* ids, int64_t n_ids, float scale, float* out);
  void linears(const Rows& rows, int64_t n_rows, int64_t n_in, std::span<const Product> products);
  // The n_chosen experts of each row of logits [T, n_experts], largest first, see Kernels::route.
  void route(const float* logits, int64_t n_rows, int64_t n_experts, int64_t n_chosen, bool is_renormalised, int32_t* ids,
             float* weights);
  // out [T, D] = residual [T, D], and then, for each chosen expert in ascending order of ids, + weight * down(silu(gate(x)) * up(x)).
  // Only chosen experts are read. out is none of the inputs.
  void experts(const float* x, int64_t n_rows, const ExpertsView& experts, const Chosen& chosen, const float* residual, float* out);
  void rms_norm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t n_in, float* out);
  void rope(const float* x, const float* cos, const float* sin, int64_t n_tokens, int64_t n_heads, int64_t d_head,
            int64_t n_pairs, float* out);
  void silu_gate(const float* gate, const float* up, int64_t n, float* out);
  void gelu_gate(const float* gate, const float* up, int64_t n, float* out);
  void sigmoid_gate(const float* gate, const float* x, int64_t n_gates, int64_t n_each, float* out);
  // Rows of all sequences [T, n_channels]; see Kernels.
  void convolve(const float* x, const float* taps, int64_t n_taps, int64_t n_channels, const SpanView& spans, const StateView& states,
                float* out);
  void delta_rule(const DeltaView& rows, const SpanView& spans, const StateView& states);
  void accumulate(const float* x, int64_t n, float* out);  // out += x; they do not overlap
  void write_kv(const float* k, const float* v, const KvView& kv, const int64_t* slots, int64_t n_tokens);
  // One token id for each row, or kNothingAllowed or kNotANumber; see sample.h.
  void sample(const float* logits, const SampleView& view, int64_t* ids);
  // Each row over its own key and those before it, at most `window` of them.
  void attention(const float* q, int64_t n_heads, const KvView& kv, const SpanView& spans, float scale, int64_t window, float* out);

 private:
  void gate(void (*kernel)(const float*, const float*, int64_t, float*), const float* gate, const float* up, int64_t n, float* out);
  void unordered_linears(const Rows& rows, int64_t n_rows, int64_t n_in, std::span<const Product> products);

  const Kernels& kernels_;
  std::array<std::vector<uint8_t>, kCodebookTypes> codebooks_;  // by type
  Arena arena_;
  ThreadPool pool_;
  std::atomic<int64_t> nanoseconds_{0};
};

}  // namespace samovar
