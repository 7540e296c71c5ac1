// Vector types on AVX-512 (F, BW, VL, DQ, VNNI). The list of operations is in simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd_x86.h"

namespace samovar::SAMOVAR_ISA {

inline constexpr int kTileRows = 8;  // input rows that a linear tile keeps in registers
#if defined(SAMOVAR_USE_AMX)
inline constexpr int kQuantRows = 16;    // of a quantised linear tile: the rows of an AMX tile
inline constexpr int kQuantTiles = 1;    // such tiles at a time
#else
inline constexpr int kQuantRows = 4;
inline constexpr int kQuantTiles = 4;
#endif
inline constexpr int kQuantChains = 2;  // rows of such a tile whose sums of 32 k grow side by side
inline constexpr int kWholeRows = 16;    // of an int4 tile
inline constexpr size_t kRuns = 1;
inline constexpr int64_t kPrefetchBytes = 4096;  // ahead of the codes in use; 2 KiB and 8 KiB measured 3 to 24 % slower on most types
inline constexpr int kAttendLanes = 12;  // query vectors that an attention tile keeps in registers
inline constexpr int kWideShift = 7;    // wide codes enter dot_wide as value + 128

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};
struct U8x64 {
  __m512i v;
};

inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline F32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F32x16 load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
inline void store_n(float* p, F32x16 a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 at_most(F32x16 a, float limit) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, _mm512_set1_ps(limit), _CMP_LE_OQ), a.v)};
}
inline F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline F32x16 neg(F32x16 a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
inline F32x16 round_even(F32x16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline I32x16 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I32x16 add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32x16 mul(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I32x16 sub(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
template <int kShift>
inline I32x16 shl(I32x16 a) {
  return {_mm512_slli_epi32(a.v, kShift)};
}
template <int kShift>
inline I32x16 shift_right(I32x16 a) {
  return {_mm512_srai_epi32(a.v, kShift)};
}
inline F32x16 to_f32(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32x16 to_i32(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline F32x16 as_f32(I32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
inline I32x16 as_i32(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
inline I32x16 max(I32x16 a, I32x16 b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline float sum_lanes(F32x16 a) { return sum_256(_mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1))); }
inline int32_t sum_lanes(I32x16 a) {
  return sum_256(_mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1)));
}
inline int32_t max_lanes(I32x16 a) {
  return max_256(_mm256_max_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1)));
}
inline void store_i8(int8_t* p, I32x16 a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v)); }

inline F32x16 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline void store_f16(uint16_t* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F32x16 load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
// 8-bit floats as float16 bits: E4M3 (its value / 256; sign, an exponent bit of zero, the seven others) and E5M2.
inline F32x16 load_e4m3(const uint8_t* p) {
  const __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 8);
  return {_mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16(static_cast<int16_t>(0xBFFF))))};
}
inline F32x16 load_e5m2(const uint8_t* p) {
  return {_mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 8))};
}
inline F32x16 load_i8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline F32x16 load_u8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

inline U8x64 load_codes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_codes(uint8_t* p, U8x64 a) { _mm512_storeu_si512(p, a.v); }
inline U8x64 bit_or(U8x64 a, U8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }

// (a shifted right by kShift, left if negative) & mask, byte by byte; the mask must clear what crosses from a neighbour.
template <int kShift>
inline U8x64 take_bits(U8x64 a, uint8_t mask) {
  const __m512i m = _mm512_set1_epi8(static_cast<char>(mask));
  if constexpr (kShift > 0) return {_mm512_and_si512(_mm512_srli_epi16(a.v, kShift), m)};
  if constexpr (kShift < 0) return {_mm512_and_si512(_mm512_slli_epi16(a.v, -kShift), m)};
  return {_mm512_and_si512(a.v, m)};
}
// The same with a shift to the right that is no constant.
inline U8x64 take_bits_at(U8x64 a, int shift, uint8_t mask) {
  return {_mm512_and_si512(_mm512_srl_epi16(a.v, _mm_cvtsi32_si128(shift)), _mm512_set1_epi8(static_cast<char>(mask)))};
}
inline U8x64 sub(U8x64 a, U8x64 b) { return {_mm512_sub_epi8(a.v, b.v)}; }
// Byte i of 16 in all four bytes of lane i.
inline U8x64 spread(const uint8_t* p16) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p16)));
  return {_mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12)))};
}
// a * b + c, byte by byte, where a * b is below 256 and lane i of b holds one number.
inline U8x64 multiply_add(U8x64 a, U8x64 b, U8x64 c) {
  const __m512i factor = _mm512_and_si512(b.v, _mm512_set1_epi16(0xFF));
  return {_mm512_add_epi8(_mm512_mullo_epi16(a.v, factor), c.v)};
}
inline U8x64 look_up(const uint8_t* table16, U8x64 index) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table16)));
  return {_mm512_shuffle_epi8(table, index.v)};
}

inline __m512i broadcast4(const int8_t* x) {
  int32_t bits;
  std::memcpy(&bits, x, 4);
  return _mm512_set1_epi32(bits);
}
inline I32x16 dot(I32x16 acc, U8x64 u, const int8_t* x) { return {_mm512_dpbusd_epi32(acc.v, u.v, broadcast4(x))}; }
inline I32x16 dot_wide(I32x16 acc, U8x64 u, const int8_t* x) { return dot(acc, u, x); }

inline void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace samovar::SAMOVAR_ISA
