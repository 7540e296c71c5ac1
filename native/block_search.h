// Which scales and codes store the values of a block with the least weighted square error: samovar.kernels.quantise_search, operation
// by operation. No operation is fused; sums over a group are folded in halves, so that every instruction set finds the same codes.
#pragma once

#include "half.h"
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {

inline float rint(float x) { return __builtin_rintf(x); }
inline float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
inline float magnitude(float x) { return __builtin_fabsf(x); }
inline float inverse(float x) { return magnitude(x) >= 0x1p-100f ? 1.0f / x : 0.0f; }
inline float quotient(float a, float b) { return b > 0.0f ? a / b : 0.0f; }
inline float half(float x) { return f16_to_f32(f32_to_f16(x)); }

// The sum of t [kLength], which is overwritten.
template <int kLength>
inline float folded(float* t) {
  if constexpr (kLength == 1) {
    return t[0];
  } else {
    for (int i = 0; i < kLength / 2; ++i) t[i] += t[i + kLength / 2];
    return folded<kLength / 2>(t);
  }
}

// Integers from low to high.
struct Integers {
  float low, high;
  float operator()(float v) const { return clamp(rint(v), low, high); }
};

// The 16 values of IQ4_NL; `index` is how many of the middles between two neighbours are below v.
struct Iq4Values {
  float operator()(float v) const {
    float found = kIq4Values[0];
    for (int j = 0; j < 15; ++j) found += v > middle(j) ? static_cast<float>(kIq4Values[j + 1] - kIq4Values[j]) : 0.0f;
    return found;
  }
  static int index(float v) {
    int n = 0;
    for (int j = 0; j < 15; ++j) n += v > middle(j);
    return n;
  }
  static constexpr float middle(int j) { return static_cast<float>(kIq4Values[j] + kIq4Values[j + 1]) * 0.5f; }
};

// The first value of the largest magnitude.
inline float extreme(const float* x, int n) {
  float found = x[0];
  for (int i = 1; i < n; ++i) found = magnitude(x[i]) > magnitude(found) ? x[i] : found;
  return found;
}

// importance * s, or if steep importance * s^1.5, with s = sqrt(mean square of the block + x^2) in units of the block's largest
// magnitude, and 0 for zeros.
template <int kLength, bool kIsSteep>
inline void search_weights(const float* x, const float* importance, float* w) {
  const float unit = inverse(magnitude(extreme(x, kLength)));
  float t[kLength];
  for (int i = 0; i < kLength; ++i) {
    const float u = x[i] * unit;
    w[i] = t[i] = u * u;
  }
  const float mean = folded<kLength>(t) * static_cast<float>(1.0 / kLength);
  for (int i = 0; i < kLength; ++i) {
    const float s = __builtin_sqrtf(mean + w[i]);
    w[i] = importance[i] * s;
    if constexpr (kIsSteep) w[i] *= __builtin_sqrtf(s);
  }
}

template <int kLength>
inline float error_of(const float* x, const float* w, const float* q, float scale, float minimum) {
  float t[kLength];
  for (int i = 0; i < kLength; ++i) {
    const float e = x[i] - (q[i] * scale - minimum);
    t[i] = w[i] * e * e;
  }
  return folded<kLength>(t);
}

template <int kLength>
class ScaleSearch {
 public:
  ScaleSearch(const float* x, const float* w) : x_(x), w_(w) {
    for (int i = 0; i < kLength; ++i) wx_[i] = w[i] * x[i];
  }

  template <class Codes>
  void attempt(const Codes& codes, float inverse_scale) {
    float a[kLength], b[kLength];
    for (int i = 0; i < kLength; ++i) {
      const float q = codes(x_[i] * inverse_scale);
      a[i] = wx_[i] * q;
      b[i] = w_[i] * q * q;
    }
    const float sum = folded<kLength>(a), s = quotient(sum, folded<kLength>(b)), gain = sum * s;
    if (gain > best_) {
      best_ = gain;
      scale = s;
    }
  }

  float scale = 0.0f;

 private:
  const float *x_, *w_;
  float wx_[kLength];
  float best_ = 0.0f;
};

// The scale, of either sign, for x ~ scale * code; `top` is the code of the extreme on the covering scale.
template <int kLength, class Codes, int kSteps>
float one_scale(const float* x, const float* w, const Codes& codes, float top, const double (&grid)[kSteps]) {
  const float base = top * inverse(extreme(x, kLength));
  ScaleSearch<kLength> search(x, w);
  for (const double step : grid) {
    search.attempt(codes, base * static_cast<float>(step));
    search.attempt(codes, base * static_cast<float>(-step));
  }
  search.attempt(codes, inverse(search.scale));
  return search.scale;
}

inline constexpr double kFineGrid[] = {0.82, 0.87, 0.92, 0.97, 1.02, 1.07, 1.12, 1.17, 1.22, 1.3, 1.45, 1.6};
inline constexpr double kSixBitGrid[] = {0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2};
inline constexpr double kCovered[] = {0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05}, kLowParts[] = {0.25, 0.5, 0.75};
inline constexpr int kNear[] = {0, -1, 1};

// Scale and minimum, neither negative, for x ~ scale * code - minimum with codes from 0 to top.
class PairSearch {
 public:
  PairSearch(const float* x, const float* w, float top) : x_(x), w_(w), top_(top) {
    float t[kGroup];
    for (int i = 0; i < kGroup; ++i) t[i] = w[i];
    sum_w_ = folded<kGroup>(t);
    for (int i = 0; i < kGroup; ++i) t[i] = w[i] * x[i];
    sum_x_ = folded<kGroup>(t);
  }

  void attempt(float s, float m) {
    float q[kGroup], a[kGroup], b[kGroup], c[kGroup];
    const float inverse_scale = inverse(s);
    for (int i = 0; i < kGroup; ++i) {
      q[i] = clamp(rint((x_[i] + m) * inverse_scale), 0.0f, top_);
      a[i] = w_[i] * q[i];
      b[i] = a[i] * q[i];
      c[i] = a[i] * x_[i];
    }
    const float sum_q = folded<kGroup>(a), sum_qq = folded<kGroup>(b), sum_xq = folded<kGroup>(c);
    const float determinant = sum_w_ * sum_qq - sum_q * sum_q;
    s = quotient(sum_w_ * sum_xq - sum_q * sum_x_, determinant);
    m = quotient(sum_q * sum_xq - sum_qq * sum_x_, determinant);
    const bool is_free = determinant > 0.0f && m >= 0.0f;
    if (!is_free) s = quotient(sum_xq, sum_qq);
    s = s > 0.0f ? s : 0.0f;
    m = is_free ? m : 0.0f;
    const float error = error_of<kGroup>(x_, w_, q, s, m);
    if (error < least_) {
      least_ = error;
      scale = s;
      minimum = m;
    }
  }

  void search() {
    float low = 0.0f, high = x_[0];
    for (int i = 0; i < kGroup; ++i) {
      low = x_[i] < low ? x_[i] : low;
      high = x_[i] > high ? x_[i] : high;
    }
    const float range = high - low, inverse_top = static_cast<float>(1.0 / static_cast<double>(top_));
    for (const double covered : kCovered) {
      for (const double part : kLowParts) {
        const float shift = low + range * static_cast<float>((1 - covered) * part);
        attempt(range * (static_cast<float>(covered) * inverse_top), shift < 0.0f ? -shift : 0.0f);
      }
    }
    for (int fewer = 0; fewer < 8; ++fewer) {
      attempt(range * static_cast<float>(1.0 / (static_cast<double>(top_) - fewer)), low < 0.0f ? -low : 0.0f);
    }
    attempt(scale, minimum);
  }

  float scale = 0.0f, minimum = 0.0f;

 private:
  const float *x_, *w_;
  float top_, sum_w_, sum_x_;
  float least_ = __builtin_inff();
};

}  // namespace samovar::SAMOVAR_ISA
