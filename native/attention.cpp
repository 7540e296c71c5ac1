// Causal attention over pages.
//
// Keys are taken in partitions of 256 at absolute positions. Within one: scores (sum over the head width in order), their
// maximum, weights e^(score - maximum), their sum (16 lanes, a fixed tree), and the weighted sum of values, key by key. A
// partition's result joins the running state by rescaling. So a query's result depends on its visible keys alone.
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

struct PagesF32 {
  using Element = float;
  static F32x16 read(const float* p) { return load(p); }
  static F32x16 read_n(const float* p, int64_t n) { return load_n(p, n); }
};
template <F32x16 (*kWiden)(const uint16_t*)>
struct Pages16 {
  using Element = uint16_t;
  static F32x16 read(const uint16_t* p) { return kWiden(p); }
  static F32x16 read_n(const uint16_t* p, int64_t n) {
    uint16_t padded[16] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
    return kWiden(padded);
  }
};

int64_t n_visible(const AttendView& a, int64_t lane) { return a.position + lane / a.n_group + 1; }

int64_t head_offset(const AttendView& a, int64_t lane) {
  const int64_t row = lane / a.n_group, head = a.kv_head * a.n_group + lane % a.n_group;
  return (row * a.n_heads + head) * a.kv.d_head;
}

template <class Pages>
const typename Pages::Element* page_at(const uint8_t* pages, const AttendView& a, int64_t page) {
  const int64_t size = kPageTokens * a.kv.d_head;
  return reinterpret_cast<const typename Pages::Element*>(pages) + (a.pages[page] * a.kv.n_kv_heads + a.kv_head) * size;
}

// scores[r][key] for the keys of one page.
template <class Pages, int kLanes>
void page_scores(const AttendView& a, const typename Pages::Element* k, const float* q, float* scores) {
  F32x16 low[kLanes], high[kLanes];
  for (int r = 0; r < kLanes; ++r) low[r] = high[r] = set1(0.0f);
  for (int64_t i = 0; i < a.kv.d_head; ++i, k += kPageTokens) {
    const F32x16 k_low = Pages::read(k), k_high = Pages::read(k + 16);
    for (int r = 0; r < kLanes; ++r) {
      const F32x16 x = set1(q[i * kLanes + r]);
      low[r] = fma(k_low, x, low[r]);
      high[r] = fma(k_high, x, high[r]);
    }
  }
  const F32x16 scale = set1(a.scale);
  for (int r = 0; r < kLanes; ++r) {
    store(scores + r * kPartitionKeys, mul(low[r], scale));
    store(scores + r * kPartitionKeys + 16, mul(high[r], scale));
  }
}

// Turn scores of `n` keys (a multiple of 16; those past `visible` count as minus infinity) into weights.
void soften(float* scores, int64_t n, int64_t visible, float& largest, float& sum) {
  for (int64_t i = visible < 0 ? 0 : visible; i < n; ++i) scores[i] = kMinusInfinity;
  F32x16 top = set1(kMinusInfinity);
  for (int64_t i = 0; i < n; i += 16) top = max(top, load(scores + i));
  float lanes[16];
  store(lanes, top);
  largest = lanes[0];
  for (float lane : lanes) largest = lane > largest ? lane : largest;
  const F32x16 shift = set1(largest == kMinusInfinity ? 0.0f : largest);
  F32x16 total = set1(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 weight = exp(sub(load(scores + i), shift));
    total = add(total, weight);
    store(scores + i, weight);
  }
  sum = sum_lanes(total);
}

// values[r][column ..] = sum over keys of weight * value, for kVectors vectors of columns.
template <class Pages, int kLanes, int kVectors>
void weigh_columns(const AttendView& a, int64_t page_first, int64_t n_keys, const float* weights, int64_t column,
                   float* values) {
  const int64_t d_head = a.kv.d_head, d_out = padded_head(d_head), left = d_head - column;
  F32x16 acc[kLanes][kVectors];
  for (int r = 0; r < kLanes; ++r) {
    for (int c = 0; c < kVectors; ++c) acc[r][c] = set1(0.0f);
  }
  for (int64_t start = 0; start < n_keys; start += kPageTokens) {
    const auto* v = page_at<Pages>(a.kv.v_PGBK, a, page_first + start / kPageTokens) + column;
    const int64_t end = start + kPageTokens < n_keys ? start + kPageTokens : n_keys;
    for (int64_t key = start; key < end; ++key, v += d_head) {
      F32x16 value[kVectors];
      for (int c = 0; c < kVectors; ++c) {
        value[c] = 16 * c + 16 <= left ? Pages::read(v + 16 * c) : Pages::read_n(v + 16 * c, left - 16 * c);
      }
      for (int r = 0; r < kLanes; ++r) {
        const F32x16 weight = set1(weights[r * kPartitionKeys + key]);
        for (int c = 0; c < kVectors; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
      }
    }
  }
  for (int r = 0; r < kLanes; ++r) {
    for (int c = 0; c < kVectors; ++c) store(values + r * d_out + column + 16 * c, acc[r][c]);
  }
}

void join(int64_t d_out, float* state, float largest, float sum, const float* values) {
  if (largest == kMinusInfinity) return;  // no key in sight
  const float top = state[0] > largest ? state[0] : largest;
  float factors[16];
  store(factors, exp(sub(load_n(state, 1), set1(top))));
  const float keep = factors[0];
  store(factors, exp(set1(largest - top)));
  const float take = factors[0];
  state[0] = top;
  state[1] = __builtin_fmaf(state[1], keep, sum * take);
  const F32x16 keep_all = set1(keep), take_all = set1(take);
  for (int64_t i = 0; i < d_out; i += 16) {
    store(state + 16 + i, fma(load(state + 16 + i), keep_all, mul(load(values + i), take_all)));
  }
}

template <class Pages, int kLanes>
void attend_tile(const AttendView& a, int64_t lane, int64_t partition, float* states, float* scratch) {
  const int64_t d_head = a.kv.d_head, d_out = padded_head(d_head);
  float* q = scratch;
  float* values = q + kLanes * d_out;
  float* scores = values + kLanes * d_out;
  const int64_t first_key = partition * kPartitionKeys;
  int64_t n_keys = n_visible(a, lane + kLanes - 1) - first_key;
  if (n_keys <= 0) return;
  if (n_keys > kPartitionKeys) n_keys = kPartitionKeys;
  for (int r = 0; r < kLanes; ++r) {
    const float* source = a.q_THK + head_offset(a, lane + r);
    for (int64_t i = 0; i < d_head; ++i) q[i * kLanes + r] = source[i];
  }
  const int64_t page_first = first_key / kPageTokens;
  for (int64_t start = 0; start < n_keys; start += kPageTokens) {
    page_scores<Pages, kLanes>(a, page_at<Pages>(a.kv.k_PGKB, a, page_first + start / kPageTokens), q, scores + start);
  }
  const int64_t n_padded = (n_keys + kPageTokens - 1) / kPageTokens * kPageTokens;
  float largest[kLanes], sum[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    soften(scores + r * kPartitionKeys, n_padded, n_visible(a, lane + r) - first_key, largest[r], sum[r]);
  }
  int64_t column = 0;
  for (; column + 32 <= d_out; column += 32) {
    weigh_columns<Pages, kLanes, 2>(a, page_first, n_keys, scores, column, values);
  }
  if (column < d_out) weigh_columns<Pages, kLanes, 1>(a, page_first, n_keys, scores, column, values);
  for (int r = 0; r < kLanes; ++r) join(d_out, states + r * state_floats(d_head), largest[r], sum[r], values + r * d_out);
}

template <class Pages, int kLanes>
void attend_many(const AttendView& a, int64_t lane, int64_t width, int64_t partition, float* states, float* scratch) {
  if constexpr (kLanes > 3) {
    if (width == kLanes) return attend_tile<Pages, kLanes>(a, lane, partition, states, scratch);
    attend_many<Pages, kLanes - 1>(a, lane, width, partition, states, scratch);
  }
}

template <class Pages>
void attend_lanes(const AttendView& a, int64_t first, int64_t last, int64_t partition, float* states, float* scratch) {
  const int64_t stride = state_floats(a.kv.d_head);
  for (int64_t lane = first; lane < last;) {
    float* s = states + (lane - first) * stride;
    const int64_t width = last - lane < kAttendLanes ? last - lane : kAttendLanes;
    switch (width) {
      case 1:
        attend_tile<Pages, 1>(a, lane, partition, s, scratch);
        break;
      case 2:
        attend_tile<Pages, 2>(a, lane, partition, s, scratch);
        break;
      case 3:
        attend_tile<Pages, 3>(a, lane, partition, s, scratch);
        break;
      default:
        attend_many<Pages, kAttendLanes>(a, lane, width, partition, s, scratch);
    }
    lane += width;
  }
}

}  // namespace

void attend(const AttendView& a, int64_t first, int64_t last, int64_t part_first, int64_t part_last, float* states,
            uint8_t* scratch) {
  float* floats = reinterpret_cast<float*>(scratch);
  for (int64_t p = part_first; p < part_last; ++p) {
    switch (a.kv.kind) {
      case KvKind::kF32:
        attend_lanes<PagesF32>(a, first, last, p, states, floats);
        break;
      case KvKind::kF16:
        attend_lanes<Pages16<load_f16>>(a, first, last, p, states, floats);
        break;
      case KvKind::kBF16:
        attend_lanes<Pages16<load_bf16>>(a, first, last, p, states, floats);
        break;
    }
  }
}

void start_states(int64_t n, int64_t d_head, float* states) {
  const int64_t stride = state_floats(d_head);
  for (int64_t i = 0; i < n * stride; ++i) states[i] = 0.0f;
  for (int64_t i = 0; i < n; ++i) states[i * stride] = kMinusInfinity;
}

void merge_states(int64_t n, int64_t d_head, float* states, const float* other) {
  const int64_t stride = state_floats(d_head);
  for (int64_t i = 0; i < n; ++i, states += stride, other += stride) {
    join(padded_head(d_head), states, other[0], other[1], other + 16);
  }
}

void finish_states(const AttendView& a, int64_t first, int64_t last, const float* states) {
  const int64_t d_head = a.kv.d_head;
  for (int64_t lane = first; lane < last; ++lane, states += state_floats(d_head)) {
    float* out = a.out_THK + head_offset(a, lane);
    const F32x16 inverse = set1(1.0f / states[1]);
    for (int64_t i = 0; i < d_head; i += 16) {
      const int64_t n = d_head - i < 16 ? d_head - i : 16;
      store_n(out + i, mul(load(states + 16 + i), inverse), n);
    }
  }
}

}  // namespace samovar::SAMOVAR_ISA
