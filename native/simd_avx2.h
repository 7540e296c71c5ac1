// Vector types on AVX2 with FMA and F16C: pairs of 256-bit registers. The list of operations is in simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd_x86.h"

namespace samovar::SAMOVAR_ISA {

inline constexpr int kTileRows = 2;  // 16 registers hold two rows of accumulators beside the codes
inline constexpr int kQuantRows = 4;  // of a quantised linear tile
inline constexpr int kQuantTiles = 1;
inline constexpr int kQuantChains = 4;
inline constexpr int kWholeRows = kQuantRows;  // of an int4 tile
inline constexpr size_t kRuns = 4;             // of weights, read side by side for a single row: quicker than one on Zen 3
inline constexpr int64_t kPrefetchBytes = 0;  // none: it costs a fifth of the read rate on Zen 3
inline constexpr int kAttendLanes = 3;
inline constexpr int kWideShift = -1;  // dot_wide takes the bias of 128 away itself

struct F32x16 {
  __m256 a, b;
};
struct I32x16 {
  __m256i a, b;
};
struct U8x64 {
  __m256i a, b;
};

inline __m256i lane_mask(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
// Masked stores are dozens of operations on Zen, so whole vectors do without.
inline F32x16 load_n(const float* p, int64_t n) {
  if (n >= 16) return load(p);
  return {_mm256_maskload_ps(p, lane_mask(n)), _mm256_maskload_ps(p + 8, lane_mask(n - 8))};
}
inline void store(float* p, F32x16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline void store_n(float* p, F32x16 x, int64_t n) {
  if (n >= 16) return store(p, x);
  _mm256_maskstore_ps(p, lane_mask(n), x.a);
  _mm256_maskstore_ps(p + 8, lane_mask(n - 8), x.b);
}
inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F32x16 add(F32x16 x, F32x16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F32x16 sub(F32x16 x, F32x16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F32x16 mul(F32x16 x, F32x16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F32x16 div(F32x16 x, F32x16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F32x16 max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F32x16 min(F32x16 x, F32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F32x16 at_most(F32x16 x, float limit) {
  const __m256 most = _mm256_set1_ps(limit);
  return {_mm256_and_ps(x.a, _mm256_cmp_ps(x.a, most, _CMP_LE_OQ)), _mm256_and_ps(x.b, _mm256_cmp_ps(x.b, most, _CMP_LE_OQ))};
}
inline F32x16 abs(F32x16 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F32x16 neg(F32x16 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(sign, x.a), _mm256_xor_ps(sign, x.b)};
}
inline F32x16 round_even(F32x16 x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}

inline I32x16 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I32x16 add(I32x16 x, I32x16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I32x16 mul(I32x16 x, I32x16 y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
inline I32x16 sub(I32x16 x, I32x16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
template <int kShift>
inline I32x16 shl(I32x16 x) {
  return {_mm256_slli_epi32(x.a, kShift), _mm256_slli_epi32(x.b, kShift)};
}
template <int kShift>
inline I32x16 shift_right(I32x16 x) {
  return {_mm256_srai_epi32(x.a, kShift), _mm256_srai_epi32(x.b, kShift)};
}
inline F32x16 to_f32(I32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I32x16 to_i32(F32x16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F32x16 as_f32(I32x16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline I32x16 as_i32(F32x16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline I32x16 max(I32x16 x, I32x16 y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
inline float sum_lanes(F32x16 x) { return sum_256(_mm256_add_ps(x.a, x.b)); }
inline int32_t sum_lanes(I32x16 x) { return sum_256(_mm256_add_epi32(x.a, x.b)); }
inline int32_t max_lanes(I32x16 x) { return max_256(_mm256_max_epi32(x.a, x.b)); }
inline void store_i8(int8_t* p, I32x16 x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i load_64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline F32x16 load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 8))}; }
inline void store_f16(uint16_t* p, F32x16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline __m256 widen_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
}
inline F32x16 load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline F32x16 widen_f16(__m256i bits) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))};
}
inline __m256i high_bytes(const uint8_t* p) {
  return _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 8);
}
// 8-bit floats as float16 bits: E4M3 (its value / 256; sign, an exponent bit of zero, the seven others) and E5M2.
inline F32x16 load_e4m3(const uint8_t* p) {
  return widen_f16(_mm256_and_si256(_mm256_srai_epi16(high_bytes(p), 1), _mm256_set1_epi16(static_cast<int16_t>(0xBFFF))));
}
inline F32x16 load_e5m2(const uint8_t* p) { return widen_f16(high_bytes(p)); }
inline F32x16 load_i8(const uint8_t* p) {
  return to_f32(I32x16{_mm256_cvtepi8_epi32(load_64(p)), _mm256_cvtepi8_epi32(load_64(p + 8))});
}
inline F32x16 load_u8(const uint8_t* p) {
  return to_f32(I32x16{_mm256_cvtepu8_epi32(load_64(p)), _mm256_cvtepu8_epi32(load_64(p + 8))});
}

inline U8x64 load_codes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline void store_codes(uint8_t* p, U8x64 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.b);
}
inline U8x64 bit_or(U8x64 x, U8x64 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }

template <int kShift>
inline __m256i take_bits_256(__m256i x, __m256i mask) {
  if constexpr (kShift > 0) return _mm256_and_si256(_mm256_srli_epi16(x, kShift), mask);
  if constexpr (kShift < 0) return _mm256_and_si256(_mm256_slli_epi16(x, -kShift), mask);
  return _mm256_and_si256(x, mask);
}
// (x shifted right by kShift, left if negative) & mask, byte by byte; the mask must clear what crosses from a neighbour.
template <int kShift>
inline U8x64 take_bits(U8x64 x, uint8_t mask) {
  const __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
  return {take_bits_256<kShift>(x.a, m), take_bits_256<kShift>(x.b, m)};
}
// The same with a shift to the right that is no constant.
inline U8x64 take_bits_at(U8x64 x, int shift, uint8_t mask) {
  const __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
  const __m128i n = _mm_cvtsi32_si128(shift);
  return {_mm256_and_si256(_mm256_srl_epi16(x.a, n), m), _mm256_and_si256(_mm256_srl_epi16(x.b, n), m)};
}
inline U8x64 sub(U8x64 x, U8x64 y) { return {_mm256_sub_epi8(x.a, y.a), _mm256_sub_epi8(x.b, y.b)}; }
// Byte i of 16 in all four bytes of lane i.
inline U8x64 spread(const uint8_t* p16) {
  const __m256i pattern = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  return {_mm256_shuffle_epi8(_mm256_cvtepu8_epi32(load_64(p16)), pattern),
          _mm256_shuffle_epi8(_mm256_cvtepu8_epi32(load_64(p16 + 8)), pattern)};
}
// x * y + z, byte by byte, where x * y is below 256 and lane i of y holds one number.
inline U8x64 multiply_add(U8x64 x, U8x64 y, U8x64 z) {
  const __m256i low = _mm256_set1_epi16(0xFF);
  return {_mm256_add_epi8(_mm256_mullo_epi16(x.a, _mm256_and_si256(y.a, low)), z.a),
          _mm256_add_epi8(_mm256_mullo_epi16(x.b, _mm256_and_si256(y.b, low)), z.b)};
}
inline U8x64 look_up(const uint8_t* table16, U8x64 index) {
  const __m256i table = _mm256_broadcastsi128_si256(load_128(table16));
  return {_mm256_shuffle_epi8(table, index.a), _mm256_shuffle_epi8(table, index.b)};
}

inline __m256i broadcast4(const int8_t* x) {
  int32_t bits;
  std::memcpy(&bits, x, 4);
  return _mm256_set1_epi32(bits);
}
// gcc would make trees of chains of sums, for which there are not enough registers.
inline void keep_chain(__m256i& sum) { asm("" : "+x"(sum)); }

inline __m256i dot_256(__m256i acc, __m256i u, __m256i x) {
  __m256i sum = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), _mm256_set1_epi16(1)));
  keep_chain(sum);
  return sum;
}
// Codes are at most 127 here, so that a pair of products (127 * 127 * 2) stays below 2^15 in maddubs.
inline I32x16 dot(I32x16 acc, U8x64 u, const int8_t* x) {
  const __m256i xb = broadcast4(x);
  return {dot_256(acc.a, u.a, xb), dot_256(acc.b, u.b, xb)};
}
// Sums of pairs in 16 bits: of so many steps they are exact, if activations are within 127.
constexpr int narrow_steps(int largest_code) { return 32767 / (2 * 127 * largest_code); }
struct PairSums {
  __m256i a, b;
};
inline PairSums pair_sums(U8x64 u, const int8_t* x) {
  const __m256i xb = broadcast4(x);
  return {_mm256_maddubs_epi16(u.a, xb), _mm256_maddubs_epi16(u.b, xb)};
}
inline PairSums add(PairSums x, PairSums y) {
  PairSums sums{_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)};
  keep_chain(sums.a);
  keep_chain(sums.b);
  return sums;
}
inline I32x16 add(I32x16 x, PairSums y) {
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(x.a, _mm256_madd_epi16(y.a, one)), _mm256_add_epi32(x.b, _mm256_madd_epi16(y.b, one))};
}
inline __m256i dot_signed_256(__m256i acc, __m256i u, __m256i x) {
  const __m256i w = _mm256_xor_si256(u, _mm256_set1_epi8(static_cast<char>(0x80)));
  return dot_256(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));  // 128 * 127 * 2 still fits in 15 bits
}
inline I32x16 dot_wide(I32x16 acc, U8x64 u, const int8_t* x) {
  const __m256i xb = broadcast4(x);
  return {dot_signed_256(acc.a, u.a, xb), dot_signed_256(acc.b, u.b, xb)};
}

inline void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace samovar::SAMOVAR_ISA
