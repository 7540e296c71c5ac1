// Normalisation, rotary embedding, the gate, the choice of experts, and the write into key/value pages; and this instruction set's table.
#include "half.h"
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {

void rms_norm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t n_in, float* out) {
  const int64_t whole = n_in / 16 * 16, tail = n_in - whole;
  for (int64_t row = 0; row < n_rows; ++row, x += n_in, out += n_in) {
    F32x16 squares = set1(0.0f);
    for (int64_t i = 0; i < whole; i += 16) {
      const F32x16 v = load(x + i);
      squares = fma(v, v, squares);
    }
    if (tail > 0) {
      const F32x16 v = load_n(x + whole, tail);
      squares = fma(v, v, squares);
    }
    const float mean = sum_lanes(squares) / static_cast<float>(n_in);
    const F32x16 inverse = set1(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < whole; i += 16) store(out + i, mul(mul(load(x + i), inverse), load(weight + i)));
    if (tail > 0) store_n(out + whole, mul(mul(load_n(x + whole, tail), inverse), load_n(weight + whole, tail)), tail);
  }
}

void rope(const float* x, const float* cos, const float* sin, int64_t n_tokens, int64_t n_heads, int64_t d_head,
          int64_t n_pairs, float* out) {
  for (int64_t t = 0; t < n_tokens; ++t, cos += n_pairs, sin += n_pairs) {
    for (int64_t h = 0; h < n_heads; ++h, x += d_head, out += d_head) {
      for (int64_t i = 0; i < n_pairs; i += 16) {
        const int64_t n = n_pairs - i < 16 ? n_pairs - i : 16;
        const F32x16 c = load_n(cos + i, n), s = load_n(sin + i, n);
        const F32x16 a = load_n(x + i, n), b = load_n(x + n_pairs + i, n);
        store_n(out + i, sub(mul(a, c), mul(b, s)), n);
        store_n(out + n_pairs + i, add(mul(b, c), mul(a, s)), n);
      }
      for (int64_t i = 2 * n_pairs; i < d_head; ++i) out[i] = x[i];
    }
  }
}

void silu_gate(const float* gate, const float* up, int64_t n, float* out) {
  const F32x16 one = set1(1.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = n - i < 16 ? n - i : 16;
    const F32x16 g = load_n(gate + i, count);
    const F32x16 silu = div(g, add(one, exp(neg(g))));
    store_n(out + i, mul(silu, load_n(up + i, count)), count);
  }
}

void gelu_gate(const float* gate, const float* up, int64_t n, float* out) {
  constexpr float kMinusTwice = -1.5957691216057308f;  // -2 sqrt(2 / pi)
  const F32x16 one = set1(1.0f), linear = set1(kMinusTwice), cubic = set1(kMinusTwice * 0.044715f);
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = n - i < 16 ? n - i : 16;
    const F32x16 g = load_n(gate + i, count);
    const F32x16 gelu = div(g, add(one, exp(mul(g, fma(cubic, mul(g, g), linear)))));
    store_n(out + i, mul(gelu, load_n(up + i, count)), count);
  }
}

void add_scaled(const float* x, float scale, int64_t n, float* out) {
  const F32x16 factor = set1(scale);
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = n - i < 16 ? n - i : 16;
    store_n(out + i, add(load_n(out + i, count), mul(load_n(x + i, count), factor)), count);
  }
}

namespace {

// The largest n_chosen of the logits, largest first, into `values` and `ids`; of equal ones the first. What is no number is as good
// as none, but an expert all the same.
void choose(const float* logits, int64_t n_experts, int64_t n_chosen, int32_t* ids, float* values) {
  int64_t n = 0;
  for (int64_t e = 0; e < n_experts; ++e) {
    const float x = logits[e];
    if (n == n_chosen && !(x > values[n - 1])) continue;
    int64_t at = n < n_chosen ? n++ : n - 1;
    for (; at > 0 && x > values[at - 1]; --at) values[at] = values[at - 1], ids[at] = ids[at - 1];
    values[at] = x;
    ids[at] = static_cast<int32_t>(e);
  }
}

}  // namespace

void route(const float* logits, int64_t n_experts, int64_t n_chosen, bool is_renormalised, int32_t* ids, float* weights) {
  choose(logits, n_experts, n_chosen, ids, weights);
  const F32x16 top = set1(weights[0]);
  F32x16 sums = set1(0.0f);
  for (int64_t e = 0; e < n_experts; e += 16) {
    float lanes[16];
    store(lanes, exp(sub(load_n(logits + e, n_experts - e < 16 ? n_experts - e : 16), top)));
    for (int64_t lane = n_experts - e; lane < 16; ++lane) lanes[lane] = 0.0f;
    sums = add(sums, load(lanes));
  }
  const F32x16 all = set1(sum_lanes(sums));
  float of_chosen = 0.0f;
  for (int64_t c = 0; c < n_chosen; c += 16) {
    const int64_t n = n_chosen - c < 16 ? n_chosen - c : 16;
    store_n(weights + c, div(exp(sub(load_n(weights + c, n), top)), all), n);
    for (int64_t i = c; i < c + n; ++i) of_chosen += weights[i];
  }
  if (is_renormalised) {
    for (int64_t c = 0; c < n_chosen; ++c) weights[c] /= of_chosen;
  }
}

namespace {

constexpr float kMostF16 = 65504.0f;

uint16_t saturate_f16(float x) {
  const float size = __builtin_fabsf(x);
  return f32_to_f16(size > kMostF16 && size < __builtin_inff() ? __builtin_copysignf(kMostF16, x) : x);
}

// `n` values, at most 16, rounded to the pages' type.
struct ToF16 {
  static void round(const float* x, int64_t n, uint16_t* out) {
    const I32x16 size = as_i32(abs(load_n(x, n)));  // bits order as sizes do, with what is no number above infinity
    if (n == 16 && max_lanes(size) <= static_cast<int32_t>(bits_from_f32(kMostF16))) return store_f16(out, load(x));
    for (int64_t i = 0; i < n; ++i) out[i] = saturate_f16(x[i]);
  }
};
struct ToBf16 {
  static void round(const float* x, int64_t n, uint16_t* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = f32_to_bf16(x[i]);
  }
};
struct ToF32 {
  static void round(const float* x, int64_t n, float* out) { std::memcpy(out, x, static_cast<size_t>(n) * 4); }
};

template <class To, class Element>
void write_pages(const float* k, const float* v, const KvView& kv, const int64_t* slots, int64_t n_tokens, int64_t head_first,
                 int64_t head_last, Element* k_pages, Element* v_pages) {
  for (int64_t g = head_first; g < head_last; ++g) {
    for (int64_t t = 0; t < n_tokens; ++t) {
      const int64_t page = slots[t] / kPageTokens, offset = slots[t] % kPageTokens;
      const int64_t row = (t * kv.n_kv_heads + g) * kv.d_head, base = (page * kv.n_kv_heads + g) * kv.d_head * kPageTokens;
      for (int64_t i = 0; i < kv.d_head; i += 16) {
        const int64_t n = kv.d_head - i < 16 ? kv.d_head - i : 16;
        Element rounded[16];
        To::round(k + row + i, n, rounded);
        for (int64_t j = 0; j < n; ++j) k_pages[base + (i + j) * kPageTokens + offset] = rounded[j];
        To::round(v + row + i, n, v_pages + base + offset * kv.d_head + i);
      }
    }
  }
}

// Codes of one row, `stride` apart; returns the scale.
float quantise_row(const float* x, int64_t n, int8_t* codes, int64_t stride) {
  constexpr uint32_t kInfinity = 0x7F800000u;
  uint32_t top = 0;  // bits order as sizes do, with what is no number above infinity
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t size = bits_from_f32(x[i]) & 0x7FFFFFFFu;
    top = size > top ? size : top;
  }
  const float scale = top < kInfinity ? f32_from_bits(top) / 127.0f : __builtin_nanf("");
  const F32x16 divisor = set1(scale), most = set1(127.0f);
  const bool is_zero = !(scale > 0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = n - i < 16 ? n - i : 16;
    int8_t row[16] = {};
    if (!is_zero) store_i8(row, to_i32(round_even(max(neg(most), min(most, div(load_n(x + i, count), divisor))))));
    for (int64_t j = 0; j < count; ++j) codes[(i + j) * stride] = row[j];
  }
  return scale;
}

void write_i8(const float* k, const float* v, const KvView& kv, const int64_t* slots, int64_t n_tokens, int64_t head_first,
              int64_t head_last) {
  for (int64_t g = head_first; g < head_last; ++g) {
    for (int64_t t = 0; t < n_tokens; ++t) {
      const int64_t page = slots[t] / kPageTokens, offset = slots[t] % kPageTokens;
      const int64_t row = (t * kv.n_kv_heads + g) * kv.d_head, at = (page * kv.n_kv_heads + g) * kPageTokens;
      auto* k_page = reinterpret_cast<int8_t*>(kv.k_PGKB) + at * kv.d_head;
      auto* v_page = reinterpret_cast<int8_t*>(kv.v_PGBK) + at * kv.d_head;
      kv.k_scale_PGB[at + offset] = quantise_row(k + row, kv.d_head, k_page + offset, kPageTokens);
      kv.v_scale_PGB[at + offset] = quantise_row(v + row, kv.d_head, v_page + offset * kv.d_head, 1);
    }
  }
}

}  // namespace

void write_kv(const float* k, const float* v, const KvView& kv, const int64_t* slots, int64_t n_tokens, int64_t head_first,
              int64_t head_last) {
  const auto write = [&]<class To, class Element>() {
    write_pages<To>(k, v, kv, slots, n_tokens, head_first, head_last, reinterpret_cast<Element*>(kv.k_PGKB),
                    reinterpret_cast<Element*>(kv.v_PGBK));
  };
  switch (kv.kind) {
    case KvKind::kF32:
      return write.template operator()<ToF32, float>();
    case KvKind::kF16:
      return write.template operator()<ToF16, uint16_t>();
    case KvKind::kBF16:
      return write.template operator()<ToBf16, uint16_t>();
    case KvKind::kI8:
      return write_i8(k, v, kv, slots, n_tokens, head_first, head_last);
  }
}

const Kernels& kernels() {
  static constexpr Kernels table{
      quantise_rows, copy_row,      quantise_whole_rows, tile_rows_f32, quant_linear,  int4_linear,   quantise_int4, quantise_blocks,
      float_linear,  rms_norm,      rope,                silu_gate,     gelu_gate,     add_scaled,    sigmoid_gate,  convolve,
      delta_rule,    route,         write_kv,            attend,        start_states,  merge_states,  finish_states, lane_maxima,
      weigh,         read_all,      dot_many};
  return table;
}

}  // namespace samovar::SAMOVAR_ISA
