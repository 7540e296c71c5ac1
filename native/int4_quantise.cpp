// int4 weights from float32 rows, operation by operation as samovar.kernels.int4 defines them: no operation is fused, and the sum of
// errors has the order of a vector of 16 lanes folded in halves, so that every instruction set finds the same codes.
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {
namespace {

constexpr float kLargestValue = 120.0f;
constexpr float kSmallestAmax = 0x1p-110f;
constexpr int kLimits[16] = {8, 9, 9, 10, 11, 12, 14, 15, 15, 14, 12, 11, 10, 9, 9, 8};  // of the multiplier, by zero code

inline float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
inline float rint(float x) { return __builtin_rintf(x); }

struct Choice {
  int multiplier = 1, zero = 8;
};

// The multiplier and zero code of 32 values with the least weighted error.
Choice search(const float* u, const float* weights, const float* reciprocals) {
  float low = 0.0f, high = 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    low = u[i] < low ? u[i] : low;
    high = u[i] > high ? u[i] : high;
  }
  const float middle = (high + low) * 0.5f;
  const int near = static_cast<int>(rint((high - low) * reciprocals[15]));
  Choice best;
  float least = __builtin_inff();
  for (int step = -1; step <= 2; ++step) {
    int m = near + step;
    m = m < 1 ? 1 : m > 15 ? 15 : m;
    const float product = middle * reciprocals[m];
    const int z = static_cast<int>(clamp(rint(7.5f - product), 0.0f, 15.0f));
    m = m > kLimits[z] ? kLimits[z] : m;
    const float reciprocal = reciprocals[m], multiplier = static_cast<float>(m);
    const float bottom = static_cast<float>(-z), top = static_cast<float>(15 - z);
    float errors[kGroup];
    for (int i = 0; i < kGroup; ++i) {
      const float error = u[i] - clamp(rint(u[i] * reciprocal), bottom, top) * multiplier;
      errors[i] = error * error * __builtin_fabsf(u[i]);
    }
    for (int i = 0; i < kGroup && weights != nullptr; ++i) errors[i] *= weights[i];
    for (int width = kGroup / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) errors[i] += errors[i + width];
    }
    if (errors[0] < least) {
      least = errors[0];
      best = {m, z};
    }
  }
  return best;
}

}  // namespace

bool quantise_int4(const float* row, const float* importance, int64_t n, uint8_t* codes, uint8_t* bytes, float* scale) {
  uint32_t top = 0;  // magnitudes order as their bits do
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, row + i, 4);
    bits &= 0x7FFFFFFFu;
    top = bits > top ? bits : top;
  }
  if (top >= 0x7F800000u) return false;
  float amax;
  std::memcpy(&amax, &top, 4);
  const bool is_zero = amax < kSmallestAmax;
  const float inverse = kLargestValue / (is_zero ? 1.0f : amax);
  *scale = is_zero ? 0.0f : amax / kLargestValue;
  float reciprocals[16];
  for (int m = 1; m < 16; ++m) reciprocals[m] = 1.0f / static_cast<float>(m);
  for (int64_t g = 0; g < n_groups(n); ++g, row += kGroup, codes += kGroup) {
    float u[kGroup];
    for (int i = 0; i < kGroup; ++i) u[i] = row[i] * inverse;
    const Choice choice = search(u, importance == nullptr ? nullptr : importance + g * kGroup, reciprocals);
    const float reciprocal = reciprocals[choice.multiplier];
    const float bottom = static_cast<float>(-choice.zero), above = static_cast<float>(15 - choice.zero);
    for (int i = 0; i < kGroup; ++i) {
      codes[i] = static_cast<uint8_t>(static_cast<int>(clamp(rint(u[i] * reciprocal), bottom, above)) + choice.zero);
    }
    bytes[g] = static_cast<uint8_t>(choice.multiplier | choice.zero << 4);
  }
  return true;
}

}  // namespace samovar::SAMOVAR_ISA
