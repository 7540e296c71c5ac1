// Vector types on AArch64's NEON: four 128-bit registers. Built twice: for every such processor (`neon`), and for those with the
// dot product instructions of Armv8.2 (`neon_dot`). The list of operations is in simd.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace samovar::SAMOVAR_ISA {

inline constexpr int kTileRows = 2;  // an accumulator of 16 lanes takes four of the 32 registers
inline constexpr int kQuantRows = 2;  // of a quantised linear tile
inline constexpr int kQuantTiles = 1;
inline constexpr int kQuantChains = 1;
inline constexpr int kWholeRows = kQuantRows;  // of an int4 tile
inline constexpr size_t kRuns = 1;
inline constexpr int64_t kPrefetchBytes = 4096;
inline constexpr int kAttendLanes = 3;
inline constexpr int kWideShift = -1;  // dot_wide takes the bias of 128 away itself

struct F32x16 {
  float32x4_t v[4];
};
struct I32x16 {
  int32x4_t v[4];
};
struct U8x64 {
  uint8x16_t v[4];
};

template <class Vector, class Function>
inline Vector make4(Function value) {
  return {{value(0), value(1), value(2), value(3)}};
}

inline F32x16 set1(float x) {
  return make4<F32x16>([=](int) { return vdupq_n_f32(x); });
}
inline F32x16 load(const float* p) {
  return make4<F32x16>([=](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, F32x16 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline F32x16 load_n(const float* p, int64_t n) {
  if (n >= 16) return load(p);
  float padded[16] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}
inline void store_n(float* p, F32x16 a, int64_t n) {
  if (n >= 16) return store(p, a);
  float padded[16];
  store(padded, a);
  for (int64_t i = 0; i < n; ++i) p[i] = padded[i];
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return make4<F32x16>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F32x16 add(F32x16 a, F32x16 b) {
  return make4<F32x16>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline F32x16 sub(F32x16 a, F32x16 b) {
  return make4<F32x16>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  return make4<F32x16>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline F32x16 div(F32x16 a, F32x16 b) {
  return make4<F32x16>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
// vmaxq and vminq return a NaN wherever there is one; the other instruction sets return the second operand.
inline F32x16 max(F32x16 a, F32x16 b) {
  return make4<F32x16>([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F32x16 min(F32x16 a, F32x16 b) {
  return make4<F32x16>([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F32x16 at_most(F32x16 a, float limit) {
  return make4<F32x16>([&](int i) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a.v[i]), vcleq_f32(a.v[i], vdupq_n_f32(limit))));
  });
}
inline F32x16 abs(F32x16 a) {
  return make4<F32x16>([&](int i) { return vabsq_f32(a.v[i]); });
}
inline F32x16 neg(F32x16 a) {
  return make4<F32x16>([&](int i) { return vnegq_f32(a.v[i]); });
}
inline F32x16 round_even(F32x16 a) {
  return make4<F32x16>([&](int i) { return vrndnq_f32(a.v[i]); });
}

inline I32x16 set1_i32(int32_t x) {
  return make4<I32x16>([=](int) { return vdupq_n_s32(x); });
}
inline I32x16 add(I32x16 a, I32x16 b) {
  return make4<I32x16>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
inline I32x16 mul(I32x16 a, I32x16 b) {
  return make4<I32x16>([&](int i) { return vmulq_s32(a.v[i], b.v[i]); });
}
inline I32x16 sub(I32x16 a, I32x16 b) {
  return make4<I32x16>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); });
}
template <int kShift>
inline I32x16 shl(I32x16 a) {
  return make4<I32x16>([&](int i) { return vshlq_n_s32(a.v[i], kShift); });
}
template <int kShift>
inline I32x16 shift_right(I32x16 a) {
  return make4<I32x16>([&](int i) { return vshrq_n_s32(a.v[i], kShift); });
}
inline F32x16 to_f32(I32x16 a) {
  return make4<F32x16>([&](int i) { return vcvtq_f32_s32(a.v[i]); });
}
// What does not fit becomes the smallest integer, as on x86; the instruction alone would give the nearest, and 0 for a NaN.
inline I32x16 to_i32(F32x16 a) {
  const float32x4_t limit = vdupq_n_f32(2147483648.0f);
  const int32x4_t none = vdupq_n_s32(INT32_MIN);
  return make4<I32x16>([&](int i) { return vbslq_s32(vcaltq_f32(a.v[i], limit), vcvtnq_s32_f32(a.v[i]), none); });
}
inline F32x16 as_f32(I32x16 a) {
  return make4<F32x16>([&](int i) { return vreinterpretq_f32_s32(a.v[i]); });
}
inline I32x16 as_i32(F32x16 a) {
  return make4<I32x16>([&](int i) { return vreinterpretq_s32_f32(a.v[i]); });
}
inline I32x16 max(I32x16 a, I32x16 b) {
  return make4<I32x16>([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); });
}
inline float sum_lanes(F32x16 a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline int32_t sum_lanes(I32x16 a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[2]), vaddq_s32(a.v[1], a.v[3])));
}
inline int32_t max_lanes(I32x16 a) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[2]), vmaxq_s32(a.v[1], a.v[3])));
}
inline void store_i8(int8_t* p, I32x16 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

inline F32x16 load_f16(const uint16_t* p) {
  return make4<F32x16>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline void store_f16(uint16_t* p, F32x16 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}
inline F32x16 load_bf16(const uint16_t* p) {
  return make4<F32x16>([=](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
// 8-bit floats as float16 bits: E4M3 (its value / 256; sign, an exponent bit of zero, the seven others) and E5M2.
inline F32x16 widen_f16(int16x8_t low, int16x8_t high) {
  const auto widen = [](int16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_s16(bits)); };
  return {{widen(vget_low_s16(low)), widen(vget_high_s16(low)), widen(vget_low_s16(high)), widen(vget_high_s16(high))}};
}
inline int16x8_t high_bytes(uint8x8_t x) { return vreinterpretq_s16_u16(vshll_n_u8(x, 8)); }
inline F32x16 load_e4m3(const uint8_t* p) {
  const uint8x16_t x = vld1q_u8(p);
  const auto place = [](uint8x8_t bytes) {
    return vandq_s16(vshrq_n_s16(high_bytes(bytes), 1), vdupq_n_s16(static_cast<int16_t>(0xBFFF)));
  };
  return widen_f16(place(vget_low_u8(x)), place(vget_high_u8(x)));
}
inline F32x16 load_e5m2(const uint8_t* p) {
  const uint8x16_t x = vld1q_u8(p);
  return widen_f16(high_bytes(vget_low_u8(x)), high_bytes(vget_high_u8(x)));
}
inline F32x16 load_i8(const uint8_t* p) {
  const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
  return to_f32(I32x16{{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                        vmovl_s16(vget_high_s16(high))}});
}
inline F32x16 load_u8(const uint8_t* p) {
  const uint8x16_t x = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(x)), high = vmovl_u8(vget_high_u8(x));
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
           vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
}

inline U8x64 load_codes(const uint8_t* p) {
  return make4<U8x64>([=](int i) { return vld1q_u8(p + 16 * i); });
}
inline void store_codes(uint8_t* p, U8x64 a) {
  for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, a.v[i]);
}
inline U8x64 bit_or(U8x64 a, U8x64 b) {
  return make4<U8x64>([&](int i) { return vorrq_u8(a.v[i], b.v[i]); });
}
// (a shifted right by kShift, left if negative) & mask, byte by byte.
template <int kShift>
inline U8x64 take_bits(U8x64 a, uint8_t mask) {
  const uint8x16_t m = vdupq_n_u8(mask);
  if constexpr (kShift > 0) return make4<U8x64>([&](int i) { return vandq_u8(vshrq_n_u8(a.v[i], kShift), m); });
  if constexpr (kShift < 0) return make4<U8x64>([&](int i) { return vandq_u8(vshlq_n_u8(a.v[i], -kShift), m); });
  return make4<U8x64>([&](int i) { return vandq_u8(a.v[i], m); });
}
// The same with a shift to the right that is no constant.
inline U8x64 take_bits_at(U8x64 a, int shift, uint8_t mask) {
  const int8x16_t left = vdupq_n_s8(static_cast<int8_t>(-shift));
  return make4<U8x64>([&](int i) { return vandq_u8(vshlq_u8(a.v[i], left), vdupq_n_u8(mask)); });
}
inline U8x64 sub(U8x64 a, U8x64 b) {
  return make4<U8x64>([&](int i) { return vsubq_u8(a.v[i], b.v[i]); });
}
// Byte i of 16 in all four bytes of lane i.
inline U8x64 spread(const uint8_t* p16) {
  const uint8x16_t bytes = vld1q_u8(p16), first = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  return make4<U8x64>([&](int i) { return vqtbl1q_u8(bytes, vaddq_u8(first, vdupq_n_u8(static_cast<uint8_t>(4 * i)))); });
}
// a * b + c, byte by byte, where a * b is below 256 and lane i of b holds one number.
inline U8x64 multiply_add(U8x64 a, U8x64 b, U8x64 c) {
  return make4<U8x64>([&](int i) { return vmlaq_u8(c.v[i], a.v[i], b.v[i]); });
}
inline U8x64 look_up(const uint8_t* table16, U8x64 index) {
  const uint8x16_t table = vld1q_u8(table16);
  return make4<U8x64>([&](int i) { return vqtbl1q_u8(table, index.v[i]); });
}

inline int32x4_t dot_signed(int32x4_t acc, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(acc, w, x);
#else
  // |w| <= 128 and |x| <= 127, so a pair of products stays below 2^15.
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
  return vpadalq_s16(acc, vpaddq_s16(low, high));
#endif
}
inline int8x16_t broadcast4(const int8_t* x) {
  int32_t bits;
  std::memcpy(&bits, x, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}
inline I32x16 dot(I32x16 acc, U8x64 u, const int8_t* x) {
  const int8x16_t xb = broadcast4(x);
  return make4<I32x16>([&](int i) { return dot_signed(acc.v[i], vreinterpretq_s8_u8(u.v[i]), xb); });
}
inline I32x16 dot_wide(I32x16 acc, U8x64 u, const int8_t* x) {
  const int8x16_t xb = broadcast4(x);
  const uint8x16_t bias = vdupq_n_u8(0x80);
  return make4<I32x16>([&](int i) { return dot_signed(acc.v[i], vreinterpretq_s8_u8(veorq_u8(u.v[i], bias)), xb); });
}

inline void prefetch(const uint8_t* p) { __builtin_prefetch(p); }

}  // namespace samovar::SAMOVAR_ISA
