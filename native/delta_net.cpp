// What gated delta net layers compute beside products: the convolution of their inputs, and the memories of their heads.
// kernels.h states formulas and orders of sums.
#include "half.h"
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr int64_t kVectors = kMemoryColumns / 16;

F32x16 sigmoid(F32x16 x) { return div(set1(1.0f), add(set1(1.0f), exp(neg(x)))); }

float first_lane(F32x16 x) {
  float lanes[16];
  store(lanes, x);
  return lanes[0];
}

// ln(1 + e^x). ln u for u = 1 + e, rounded, is that of its mantissa m in [1/sqrt(2), sqrt(2)) as a series in (m - 1) / (m + 1), and of
// its exponent; what rounding to u lost of e is added as its share of u.
float softplus(float x) {
  if (!(x < 20.0f)) return x;  // e^-20 is less than half a unit in the last place of it
  const float e = first_lane(exp(set1(x))), u = 1.0f + e;
  const int32_t bits = static_cast<int32_t>(bits_from_f32(u)), power = (bits - 0x3F3504F3) >> 23;
  const float m = f32_from_bits(static_cast<uint32_t>(bits - power * (1 << 23)));
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const float series = 1.0f + z * (1.0f / 3 + z * (1.0f / 5 + z * (1.0f / 7 + z * (1.0f / 9 + z * (1.0f / 11)))));
  return static_cast<float>(power) * 0.693147181f + 2.0f * s * series + (e - (u - 1.0f)) / u;
}

// 1 / sqrt(sum of squares + 1e-6) of a head's query or key, in 16 lanes, then a fixed tree.
float inverse_length(const float* x, int64_t n) {
  F32x16 squares = set1(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 v = load_n(x + i, n - i < 16 ? n - i : 16);
    squares = fma(v, v, squares);
  }
  return 1.0f / __builtin_sqrtf(sum_lanes(squares) + 1e-6f);
}

// Some columns of one head's memory, as many vectors as they fill, row by row.
struct Columns {
  F32x16 rows[kMostKeyWidth][kVectors];
};

// One token: what the memory holds of k, forgetting, what v adds to that, and the answer to q. q and k are of length 1 (q divided by
// sqrt(d_key)). Even and odd rows are summed apart, so that a sum need not wait for the one before it.
template <int64_t kCount>
void take_in(Columns& m, int64_t d_key, const float* q, const float* k, const F32x16* v, float decay, float beta, F32x16* out) {
  F32x16 sums[2][kCount], change[kCount];
  for (int64_t c = 0; c < kCount; ++c) sums[0][c] = sums[1][c] = set1(0.0f);
  const auto compare = [&](int64_t i, F32x16* sum) {
    const F32x16 key = set1(k[i]);
    for (int64_t c = 0; c < kCount; ++c) sum[c] = fma(key, m.rows[i][c], sum[c]);
  };
  const int64_t even = d_key / 2 * 2;
  for (int64_t i = 0; i < even; i += 2) compare(i, sums[0]), compare(i + 1, sums[1]);
  if (even < d_key) compare(even, sums[0]);
  const F32x16 kept = set1(decay), strength = set1(beta);
  for (int64_t c = 0; c < kCount; ++c) {
    change[c] = mul(sub(v[c], mul(add(sums[0][c], sums[1][c]), kept)), strength);
    sums[0][c] = sums[1][c] = set1(0.0f);
  }
  const auto learn = [&](int64_t i, F32x16* sum) {
    const F32x16 key = set1(k[i]), query = set1(q[i]);
    for (int64_t c = 0; c < kCount; ++c) {
      m.rows[i][c] = fma(key, change[c], mul(m.rows[i][c], kept));
      sum[c] = fma(query, m.rows[i][c], sum[c]);
    }
  };
  for (int64_t i = 0; i < even; i += 2) learn(i, sums[0]), learn(i + 1, sums[1]);
  if (even < d_key) learn(even, sums[0]);
  for (int64_t c = 0; c < kCount; ++c) out[c] = add(sums[0][c], sums[1][c]);
}

template <int64_t kCount>
void remember(const DeltaView& d, int64_t head, int64_t first, int64_t n_tokens, bool is_first, float* memory) {
  const int64_t n_columns = d.d_value - first < kMemoryColumns ? d.d_value - first : kMemoryColumns;
  const auto lanes = [&](int64_t c) { return n_columns - 16 * c < 16 ? n_columns - 16 * c : 16; };
  Columns m;
  for (int64_t i = 0; i < d.d_key; ++i) {
    for (int64_t c = 0; c < kCount; ++c) {
      m.rows[i][c] = is_first ? set1(0.0f) : load_n(memory + i * d.d_value + first + 16 * c, lanes(c));
    }
  }
  const int64_t key_head = head * d.n_key_heads / d.n_heads, d_keys = d.n_key_heads * d.d_key;
  const int64_t n_channels = 2 * d_keys + d.n_heads * d.d_value;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(d.d_key));
  for (int64_t t = 0; t < n_tokens; ++t) {
    const float *x = d.x_TM + t * n_channels, *gates = d.gates_TM + t * 2 * d.n_heads;
    const float *q = x + key_head * d.d_key, *k = q + d_keys, *v = x + 2 * d_keys + head * d.d_value + first;
    float unit_q[kMostKeyWidth], unit_k[kMostKeyWidth];
    const float of_q = inverse_length(q, d.d_key) * scale, of_k = inverse_length(k, d.d_key);
    for (int64_t i = 0; i < d.d_key; ++i) unit_q[i] = q[i] * of_q, unit_k[i] = k[i] * of_k;
    const float beta = first_lane(sigmoid(set1(gates[head])));
    const float decay = first_lane(exp(set1(-d.rate_H[head] * softplus(gates[d.n_heads + head] + d.bias_H[head]))));
    F32x16 values[kCount], out[kCount];
    for (int64_t c = 0; c < kCount; ++c) values[c] = load_n(v + 16 * c, lanes(c));
    take_in<kCount>(m, d.d_key, unit_q, unit_k, values, decay, beta, out);
    float* row = d.out_THU + (t * d.n_heads + head) * d.d_value + first;
    for (int64_t c = 0; c < kCount; ++c) store_n(row + 16 * c, out[c], lanes(c));
  }
  for (int64_t i = 0; i < d.d_key; ++i) {
    for (int64_t c = 0; c < kCount; ++c) store_n(memory + i * d.d_value + first + 16 * c, m.rows[i][c], lanes(c));
  }
}

// kTaps 0 is any number.
template <int64_t kTaps>
void convolve_with(const float* x, const float* taps, int64_t n_taps, int64_t n_channels, int64_t first, int64_t last,
                   int64_t n_tokens, bool is_first, float* inputs, float* out) {
  constexpr int64_t kMost = kTaps > 0 ? kTaps : kMostTaps;
  n_taps = kTaps > 0 ? kTaps : n_taps;
  const int64_t n_kept = n_taps - 1;
  for (int64_t m = first; m < last; m += 16) {
    const int64_t n = last - m < 16 ? last - m : 16;
    F32x16 weights[kMost], line[kMost];  // the last n_taps inputs, oldest first
    for (int64_t j = 0; j < n_taps; ++j) weights[j] = load_n(taps + j * n_channels + m, n);
    for (int64_t j = 0; j < n_kept; ++j) line[j] = is_first ? set1(0.0f) : load_n(inputs + j * n_channels + m, n);
    for (int64_t t = 0; t < n_tokens; ++t) {
      line[n_kept] = load_n(x + t * n_channels + m, n);
      F32x16 sum = set1(0.0f);
      for (int64_t j = 0; j < n_taps; ++j) sum = fma(weights[j], line[j], sum);
      store_n(out + t * n_channels + m, mul(sum, sigmoid(sum)), n);
      for (int64_t j = 0; j < n_kept; ++j) line[j] = line[j + 1];
    }
    for (int64_t j = 0; j < n_kept; ++j) store_n(inputs + j * n_channels + m, line[j], n);
  }
}

}  // namespace

void sigmoid_gate(const float* gate, const float* x, int64_t n_gates, int64_t n_each, float* out) {
  if (n_each == 1) {
    for (int64_t i = 0; i < n_gates; i += 16) {
      const int64_t count = n_gates - i < 16 ? n_gates - i : 16;
      store_n(out + i, mul(load_n(x + i, count), sigmoid(load_n(gate + i, count))), count);
    }
    return;
  }
  for (int64_t g = 0; g < n_gates; ++g, x += n_each, out += n_each) {
    const F32x16 share = sigmoid(set1(gate[g]));
    for (int64_t i = 0; i < n_each; i += 16) {
      const int64_t count = n_each - i < 16 ? n_each - i : 16;
      store_n(out + i, mul(load_n(x + i, count), share), count);
    }
  }
}

void convolve(const float* x, const float* taps, int64_t n_taps, int64_t n_channels, int64_t first, int64_t last, int64_t n_tokens,
              bool is_first, float* inputs, float* out) {
  const auto run = n_taps == 4 ? convolve_with<4> : convolve_with<0>;
  run(x, taps, n_taps, n_channels, first, last, n_tokens, is_first, inputs, out);
}

void delta_rule(const DeltaView& d, int64_t head, int64_t first, int64_t n_tokens, bool is_first, float* memory) {
  static_assert(kVectors == 2);
  if (d.d_value - first > 16) return remember<2>(d, head, first, n_tokens, is_first, memory);
  return remember<1>(d, head, first, n_tokens, is_first, memory);
}

}  // namespace samovar::SAMOVAR_ISA
