// Causal attention over pages.
//
// Keys are taken in partitions of 256 at absolute positions. Within one: scores (sum over the head width in order), their
// maximum, weights e^(score - maximum), their sum (16 lanes, a fixed tree), and the weighted sum of values, key by key. A
// partition's result joins the running state by rescaling. So a query's result depends on its visible keys alone. Pages that lie
// before the windows of all lanes are not read.
// int8 pages: a score is (sum q * code) * (scale * key scale); a weight takes the value's scale before it meets the codes.
//
// Lanes are handled in tiles that stay in registers. Where there are several tiles, a page is widened to float32 once (the
// panel) and serves them all from the first-level cache; one tile reads the page itself. Widening is exact: same bits.
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// Where a tile reads elements from: pages of one type, with the next page asked for ahead of time, or the panel.
struct PagesF32 {
  using Element = float;
  static constexpr bool kAhead = true;
  static F32x16 read(const float* p) { return load(p); }
};
struct PanelF32 {
  using Element = float;
  static constexpr bool kAhead = false;
  static F32x16 read(const float* p) { return load(p); }
};
template <class T, F32x16 (*kWiden)(const T*)>
struct PagesOf {
  using Element = T;
  static constexpr bool kAhead = true;
  static F32x16 read(const T* p) { return kWiden(p); }
};

template <class Source>
F32x16 read_n(const typename Source::Element* p, int64_t n) {
  typename Source::Element padded[16] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
  return Source::read(padded);
}

template <class Source>
void ask_for(const typename Source::Element* p) {
  if constexpr (Source::kAhead) prefetch(reinterpret_cast<const uint8_t*>(p));
}

int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t clamp64(int64_t x, int64_t low, int64_t high) { return x < low ? low : min64(x, high); }

// A lane sees the keys before `n_visible`, but for the first `n_passed`; neither falls from lane to lane.
int64_t n_visible(const AttendView& a, int64_t lane) { return a.position + lane / a.n_group + 1; }
int64_t n_passed(const AttendView& a, int64_t visible) { return visible > a.window ? visible - a.window : 0; }

int64_t head_offset(const AttendView& a, int64_t lane) {
  const int64_t row = lane / a.n_group, head = a.kv_head * a.n_group + lane % a.n_group;
  return (row * a.n_heads + head) * a.kv.d_head;
}

// scores[r][key] for the keys of one page; q is [d_head][kLanes], `key_scales` [32] or null.
template <class Source, int kLanes>
void page_scores(const AttendView& a, const typename Source::Element* k, const typename Source::Element* next,
                 const float* key_scales, const float* q, float* scores) {
  F32x16 low[kLanes], high[kLanes];
  for (int r = 0; r < kLanes; ++r) low[r] = high[r] = set1(0.0f);
  for (int64_t i = 0; i < a.kv.d_head; ++i, k += kPageTokens, next += kPageTokens, q += kLanes) {
    ask_for<Source>(next);
    const F32x16 k_low = Source::read(k), k_high = Source::read(k + 16);
    for (int r = 0; r < kLanes; ++r) {
      const F32x16 x = set1(q[r]);
      low[r] = fma(k_low, x, low[r]);
      high[r] = fma(k_high, x, high[r]);
    }
  }
  F32x16 scale_low = set1(a.scale), scale_high = scale_low;
  if (key_scales != nullptr) {
    scale_low = mul(scale_low, load(key_scales));
    scale_high = mul(scale_high, load(key_scales + 16));
  }
  for (int r = 0; r < kLanes; ++r) {
    store(scores + r * kPartitionKeys, mul(low[r], scale_low));
    store(scores + r * kPartitionKeys + 16, mul(high[r], scale_high));
  }
}

// Turn scores of `n` keys (a multiple of 16; those before `passed` and past `visible` count as minus infinity) into weights.
void soften(float* scores, int64_t n, int64_t passed, int64_t visible, float& largest, float& sum) {
  for (int64_t i = 0; i < passed; ++i) scores[i] = kMinusInfinity;
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

// The keys of one page that the lanes of a tile see: lane r those from first[r] on and before last[r], which do not fall with r.
template <int kLanes>
struct Sight {
  int64_t first[kLanes], last[kLanes];
};

// values[r][0 .. 16 kVectors) += sum over a page's keys of weight * value. `v`, `next` and `values` stand at one column.
// A lane never meets the value of a key that it does not see, which could be infinite or no number.
template <class Source, int kLanes, int kVectors>
void weigh(const typename Source::Element* v, const typename Source::Element* next, int64_t d_head, int64_t n_columns,
           const Sight<kLanes>& sight, const float* weights, float* values, int64_t d_out) {
  constexpr int kLineVectors = 4 / sizeof(typename Source::Element);  // vectors of elements in one line of 64 bytes
  F32x16 acc[kLanes][kVectors], value[kVectors];
  const auto read = [&] {
    for (int c = 0; c < kVectors; ++c) {
      value[c] = kVectors == 1 && n_columns < 16 ? read_n<Source>(v, n_columns) : Source::read(v + 16 * c);
      if (c % kLineVectors == 0) ask_for<Source>(next + 16 * c);
    }
    v += d_head, next += d_head;
  };
  int64_t key = sight.first[0];
  v += key * d_head, next += key * d_head;
  const auto meet_some = [&](int64_t end) {
    for (; key < end; ++key) {
      read();
      for (int r = 0; r < kLanes; ++r) {
        if (key < sight.first[r] || key >= sight.last[r]) continue;
        const F32x16 weight = set1(weights[r * kPartitionKeys + key]);
        for (int c = 0; c < kVectors; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
      }
    }
  };
  for (int r = 0; r < kLanes; ++r) {
    for (int c = 0; c < kVectors; ++c) acc[r][c] = load(values + r * d_out + 16 * c);
  }
  meet_some(sight.first[kLanes - 1]);
  for (; key < sight.last[0]; ++key) {
    read();
    for (int r = 0; r < kLanes; ++r) {
      const F32x16 weight = set1(weights[r * kPartitionKeys + key]);
      for (int c = 0; c < kVectors; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
    }
  }
  meet_some(sight.last[kLanes - 1]);
  for (int r = 0; r < kLanes; ++r) {
    for (int c = 0; c < kVectors; ++c) store(values + r * d_out + 16 * c, acc[r][c]);
  }
}

// As many columns at a time as registers hold.
template <class Source, int kLanes>
void weigh_page(const AttendView& a, const typename Source::Element* v, const typename Source::Element* next,
                const Sight<kLanes>& sight, const float* weights, float* values) {
  constexpr int kMost = 2 * kAttendLanes / kLanes, kVectors = kMost >= 8 ? 8 : kMost >= 4 ? 4 : 2;
  const int64_t d_head = a.kv.d_head, d_out = padded_head(d_head);
  int64_t at = 0;
  for (; at + 16 * kVectors <= d_head; at += 16 * kVectors) {
    weigh<Source, kLanes, kVectors>(v + at, next + at, d_head, d_head - at, sight, weights, values + at, d_out);
  }
  for (; at < d_head; at += 16) {
    weigh<Source, kLanes, 1>(v + at, next + at, d_head, d_head - at, sight, weights, values + at, d_out);
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

// Call f with the width of a tile as a constant.
template <int kLanes>
struct Width {
  static constexpr int value = kLanes;
};
template <int kLanes = kAttendLanes, class Function>
void with_width(int64_t width, Function f) {
  if constexpr (kLanes > 1) {
    if (width < kLanes) return with_width<kLanes - 1>(width, f);
  }
  f(Width<kLanes>());
}

// The lanes [first, last) of one call and the memory they need.
struct Lanes {
  int64_t first, last;
  float *q, *scores, *values, *panel, *states;

  template <class Function>  // f(width, index of a tile's first lane)
  void for_each_tile(Function f) const {
    for (int64_t at = 0; at < last - first; at += kAttendLanes) {
      with_width(min64(last - first - at, kAttendLanes), [&](auto width) { f(width, at); });
    }
  }
};

template <class Pages>
struct Partition {
  using Element = typename Pages::Element;
  const AttendView& a;
  int64_t first_key, n_keys;  // n_keys: of the last lane

  int64_t n_pages() const { return (n_keys + kPageTokens - 1) / kPageTokens; }
  int64_t first_page(const Lanes& lanes) const {
    const int64_t n = n_passed(a, n_visible(a, lanes.first)) - first_key;
    return n > 0 ? n / kPageTokens : 0;
  }
  int64_t slot(int64_t page) const { return a.pages[first_key / kPageTokens + page] * a.kv.n_kv_heads + a.kv_head; }
  const Element* page_at(const uint8_t* pages, int64_t page) const {
    return reinterpret_cast<const Element*>(pages) + slot(page) * kPageTokens * a.kv.d_head;
  }
  const float* scales_at(const float* scales, int64_t page) const {
    return scales == nullptr ? nullptr : scales + slot(page) * kPageTokens;
  }
  // f(width, at, source): for each tile that sees a key of the page, with the page itself or its panel.
  template <class Function>
  void for_each_tile(const Lanes& lanes, int64_t page, const Element* p, const Element* next, Function f) const {
    if (lanes.last - lanes.first <= kAttendLanes) {
      return lanes.for_each_tile([&](auto width, int64_t at) { f(width, at, Pages(), p, next); });
    }
    for (int64_t i = 0; i < kPageTokens * a.kv.d_head; i += 16) store(lanes.panel + i, Pages::read(p + i));
    lanes.for_each_tile([&](auto width, int64_t at) {
      const int64_t start = first_key + page * kPageTokens, lane = lanes.first + at;
      if (n_visible(a, lane + width.value - 1) > start && n_passed(a, n_visible(a, lane)) < start + kPageTokens) {
        f(width, at, PanelF32(), lanes.panel, lanes.panel);
      }
    });
  }

  void score(const Lanes& lanes) const {
    const int64_t n = n_pages(), first = first_page(lanes);
    for (int64_t p = first; p < n; ++p) {
      const Element* next = p + 1 < n ? page_at(a.kv.k_PGKB, p + 1) : page_at(a.kv.v_PGBK, first);
      for_each_tile(lanes, p, page_at(a.kv.k_PGKB, p), next, [&](auto width, int64_t at, auto source, auto* k, auto* ahead) {
        page_scores<decltype(source), width.value>(a, k, ahead, scales_at(a.kv.k_scale_PGB, p), lanes.q + at * a.kv.d_head,
                                                   lanes.scores + at * kPartitionKeys + p * kPageTokens);
      });
    }
  }

  void weigh_values(const Lanes& lanes) const {
    const int64_t n = n_pages(), d_out = padded_head(a.kv.d_head);
    for (int64_t i = 0; i < (lanes.last - lanes.first) * d_out; i += 16) store(lanes.values + i, set1(0.0f));
    for (int64_t p = first_page(lanes); p < n; ++p) {
      const int64_t start = first_key + p * kPageTokens;
      const Element* next = page_at(a.kv.v_PGBK, p + 1 < n ? p + 1 : p);
      for_each_tile(lanes, p, page_at(a.kv.v_PGBK, p), next, [&](auto width, int64_t at, auto source, auto* v, auto* ahead) {
        Sight<width.value> sight;
        for (int r = 0; r < width.value; ++r) {
          const int64_t visible = n_visible(a, lanes.first + at + r);
          sight.first[r] = clamp64(n_passed(a, visible) - start, 0, kPageTokens);
          sight.last[r] = clamp64(visible - start, 0, kPageTokens);
        }
        weigh_page<decltype(source), width.value>(a, v, ahead, sight, lanes.scores + at * kPartitionKeys + p * kPageTokens,
                                                  lanes.values + at * d_out);
      });
    }
  }

  void run(const Lanes& lanes) const {
    const int64_t d_head = a.kv.d_head, d_out = padded_head(d_head);
    score(lanes);
    float sums[kItemLanes], tops[kItemLanes];
    for (int64_t r = 0; r < lanes.last - lanes.first; ++r) {
      const int64_t n_seen = n_visible(a, lanes.first + r), visible = n_seen - first_key;
      const int64_t n_padded = clamp64((visible + 15) / 16 * 16, 16, kPartitionKeys);
      const int64_t passed = clamp64(n_passed(a, n_seen) - first_key, 0, n_padded), start = passed / 16 * 16;
      float* weights = lanes.scores + r * kPartitionKeys;
      soften(weights + start, n_padded - start, passed - start, visible - start, tops[r], sums[r]);
      if (a.kv.v_scale_PGB == nullptr) continue;
      for (int64_t i = start; i < n_padded; i += 16) {
        const float* scales = scales_at(a.kv.v_scale_PGB, i / kPageTokens) + i % kPageTokens;
        store(weights + i, mul(load(weights + i), load(scales)));
      }
    }
    weigh_values(lanes);
    for (int64_t r = 0; r < lanes.last - lanes.first; ++r) {
      join(d_out, lanes.states + r * state_floats(d_head), tops[r], sums[r], lanes.values + r * d_out);
    }
  }
};

template <class Pages>
void attend_pages(const AttendView& a, const Lanes& lanes, int64_t part_first, int64_t part_last) {
  lanes.for_each_tile([&](auto width, int64_t at) {
    for (int r = 0; r < width.value; ++r) {
      const float* source = a.q_THK + head_offset(a, lanes.first + at + r);
      float* q = lanes.q + at * a.kv.d_head + r;
      for (int64_t i = 0; i < a.kv.d_head; ++i) q[i * width.value] = source[i];
    }
  });
  for (int64_t p = part_first; p < part_last; ++p) {
    const int64_t first_key = p * kPartitionKeys, n_keys = n_visible(a, lanes.last - 1) - first_key;
    if (n_keys > 0) Partition<Pages>{a, first_key, min64(n_keys, kPartitionKeys)}.run(lanes);
  }
}

}  // namespace

void attend(const AttendView& a, int64_t first, int64_t last, int64_t part_first, int64_t part_last, float* states,
            uint8_t* scratch) {
  const int64_t d_out = padded_head(a.kv.d_head);
  float* panel = reinterpret_cast<float*>(scratch);
  float* scores = panel + kPageTokens * d_out;
  float* values = scores + kItemLanes * kPartitionKeys;
  const Lanes lanes{first, last, values + kItemLanes * d_out, scores, values, panel, states};
  switch (a.kv.kind) {
    case KvKind::kF32:
      return attend_pages<PagesF32>(a, lanes, part_first, part_last);
    case KvKind::kF16:
      return attend_pages<PagesOf<uint16_t, load_f16>>(a, lanes, part_first, part_last);
    case KvKind::kBF16:
      return attend_pages<PagesOf<uint16_t, load_bf16>>(a, lanes, part_first, part_last);
    case KvKind::kI8:
      return attend_pages<PagesOf<uint8_t, load_i8>>(a, lanes, part_first, part_last);
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
