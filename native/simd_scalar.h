// Vector types as plain arrays, for every processor. The list of operations is in simd.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace samovar::SAMOVAR_ISA {

inline constexpr int kTileRows = 2;
inline constexpr int kQuantRows = 2;
inline constexpr int kQuantTiles = 1;
inline constexpr int kQuantChains = 1;
inline constexpr int kWholeRows = kQuantRows;  // of an int4 tile
inline constexpr size_t kRuns = 1;
inline constexpr int64_t kPrefetchBytes = 4096;
inline constexpr int kAttendLanes = 3;
inline constexpr int kWideShift = -1;  // dot_wide takes the bias of 128 away itself

struct F32x16 {
  float v[16];
};
struct I32x16 {
  int32_t v[16];
};
struct U8x64 {
  uint8_t v[64];
};

template <class Vector, class Function>
inline Vector make16(Function value) {
  Vector out;
  for (int i = 0; i < 16; ++i) out.v[i] = value(i);
  return out;
}
template <class Function>
inline U8x64 make64(Function value) {
  U8x64 out;
  for (int i = 0; i < 64; ++i) out.v[i] = static_cast<uint8_t>(value(i));
  return out;
}

inline F32x16 set1(float x) {
  return make16<F32x16>([=](int) { return x; });
}
inline F32x16 load(const float* p) {
  return make16<F32x16>([=](int i) { return p[i]; });
}
inline F32x16 load_n(const float* p, int64_t n) {
  return make16<F32x16>([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, F32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store_n(float* p, F32x16 a, int64_t n) { std::memcpy(p, a.v, static_cast<size_t>(n) * sizeof(float)); }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return make16<F32x16>([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline F32x16 add(F32x16 a, F32x16 b) {
  return make16<F32x16>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32x16 sub(F32x16 a, F32x16 b) {
  return make16<F32x16>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  return make16<F32x16>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32x16 div(F32x16 a, F32x16 b) {
  return make16<F32x16>([&](int i) { return a.v[i] / b.v[i]; });
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return make16<F32x16>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 min(F32x16 a, F32x16 b) {
  return make16<F32x16>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 at_most(F32x16 a, float limit) {
  return make16<F32x16>([&](int i) { return a.v[i] <= limit ? a.v[i] : 0.0f; });
}
inline F32x16 abs(F32x16 a) {
  return make16<F32x16>([&](int i) { return __builtin_fabsf(a.v[i]); });
}
inline F32x16 neg(F32x16 a) {
  return make16<F32x16>([&](int i) { return -a.v[i]; });
}
inline F32x16 round_even(F32x16 a) {
  return make16<F32x16>([&](int i) { return __builtin_nearbyintf(a.v[i]); });
}

inline I32x16 set1_i32(int32_t x) {
  return make16<I32x16>([=](int) { return x; });
}
inline I32x16 add(I32x16 a, I32x16 b) {
  return make16<I32x16>([&](int i) { return a.v[i] + b.v[i]; });
}
inline I32x16 mul(I32x16 a, I32x16 b) {
  return make16<I32x16>([&](int i) { return a.v[i] * b.v[i]; });
}
inline I32x16 sub(I32x16 a, I32x16 b) {
  return make16<I32x16>([&](int i) { return a.v[i] - b.v[i]; });
}
template <int kShift>
inline I32x16 shl(I32x16 a) {
  return make16<I32x16>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kShift); });
}
template <int kShift>
inline I32x16 shift_right(I32x16 a) {
  return make16<I32x16>([&](int i) { return a.v[i] >> kShift; });
}
inline F32x16 to_f32(I32x16 a) {
  return make16<F32x16>([&](int i) { return static_cast<float>(a.v[i]); });
}
// What does not fit becomes the smallest integer, as the vector instructions have it.
inline I32x16 to_i32(F32x16 a) {
  return make16<I32x16>(
      [&](int i) { return __builtin_fabsf(a.v[i]) < 2147483648.0f ? static_cast<int32_t>(a.v[i]) : INT32_MIN; });
}
inline F32x16 as_f32(I32x16 a) {
  F32x16 out;
  std::memcpy(out.v, a.v, sizeof out.v);
  return out;
}
inline I32x16 as_i32(F32x16 a) {
  I32x16 out;
  std::memcpy(out.v, a.v, sizeof out.v);
  return out;
}
inline I32x16 max(I32x16 a, I32x16 b) {
  return make16<I32x16>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline float sum_lanes(F32x16 a) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
  }
  return a.v[0];
}
inline int32_t sum_lanes(I32x16 a) {
  int32_t sum = 0;
  for (int32_t x : a.v) sum += x;
  return sum;
}
inline int32_t max_lanes(I32x16 a) {
  int32_t top = a.v[0];
  for (int32_t x : a.v) top = x > top ? x : top;
  return top;
}
inline void store_i8(int8_t* p, I32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}

inline F32x16 load_f16(const uint16_t* p) {
  return make16<F32x16>([=](int i) { return f16_to_f32(p[i]); });
}
inline void store_f16(uint16_t* p, F32x16 x) {
  for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(x.v[i]);
}
inline F32x16 load_bf16(const uint16_t* p) {
  return make16<F32x16>([=](int i) { return bf16_to_f32(p[i]); });
}
// 8-bit floats as float16 bits: E4M3 (its value / 256; sign, an exponent bit of zero, the seven others) and E5M2.
inline F32x16 load_e4m3(const uint8_t* p) {
  return make16<F32x16>([=](int i) { return f16_to_f32(static_cast<uint16_t>((p[i] & 0x80) << 8 | (p[i] & 0x7F) << 7)); });
}
inline F32x16 load_e5m2(const uint8_t* p) {
  return make16<F32x16>([=](int i) { return f16_to_f32(static_cast<uint16_t>(p[i] << 8)); });
}
inline F32x16 load_i8(const uint8_t* p) {
  return make16<F32x16>([=](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
}
inline F32x16 load_u8(const uint8_t* p) {
  return make16<F32x16>([=](int i) { return static_cast<float>(p[i]); });
}

inline U8x64 load_codes(const uint8_t* p) {
  U8x64 out;
  std::memcpy(out.v, p, 64);
  return out;
}
inline void store_codes(uint8_t* p, U8x64 a) { std::memcpy(p, a.v, 64); }
inline U8x64 bit_or(U8x64 a, U8x64 b) {
  return make64([&](int i) { return a.v[i] | b.v[i]; });
}
// (a shifted right by kShift, left if negative) & mask, byte by byte.
template <int kShift>
inline U8x64 take_bits(U8x64 a, uint8_t mask) {
  if constexpr (kShift >= 0) return make64([&](int i) { return (a.v[i] >> kShift) & mask; });
  return make64([&](int i) { return (a.v[i] << (kShift < 0 ? -kShift : 0)) & mask; });
}
// The same with a shift to the right that is no constant.
inline U8x64 take_bits_at(U8x64 a, int shift, uint8_t mask) {
  return make64([&](int i) { return (a.v[i] >> shift) & mask; });
}
inline U8x64 sub(U8x64 a, U8x64 b) {
  return make64([&](int i) { return a.v[i] - b.v[i]; });
}
// Byte i of 16 in all four bytes of lane i.
inline U8x64 spread(const uint8_t* p16) {
  return make64([&](int i) { return p16[i / 4]; });
}
// a * b + c, byte by byte, where a * b is below 256 and lane i of b holds one number.
inline U8x64 multiply_add(U8x64 a, U8x64 b, U8x64 c) {
  return make64([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline U8x64 look_up(const uint8_t* table16, U8x64 index) {
  return make64([&](int i) { return table16[index.v[i]]; });
}

inline I32x16 dot(I32x16 acc, U8x64 u, const int8_t* x) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) acc.v[i] += static_cast<int32_t>(u.v[4 * i + j]) * x[j];
  }
  return acc;
}
inline I32x16 dot_wide(I32x16 acc, U8x64 u, const int8_t* x) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) acc.v[i] += (static_cast<int32_t>(u.v[4 * i + j]) - 128) * x[j];
  }
  return acc;
}

inline void prefetch(const uint8_t*) {}

}  // namespace samovar::SAMOVAR_ISA
