// Sixteen-lane vectors: the one vocabulary that every kernel is written in, compiled once per instruction set.
//
// F32x16, I32x16: 16 lanes. U8x64: 64 bytes, 4 for each lane. Each simd_<isa>.h defines
//   set1, load(_n), store(_n), add, sub, mul, div (floats only), fma (one rounding), max, min (second operand where one is NaN),
//   at_most (0 where above the limit, or NaN), abs, neg, round_even, to_f32, to_i32, as_f32, as_i32 (same bits), shl, shift_right, store_i8, load_f16 / bf16 / i8 / u8 (to F32x16), load_e4m3 (value / 256) and load_e5m2,
//   store_f16 (nearest even; of finite values up to 65504),
//   sum_lanes (floats: halves added to each other down to one, a fixed tree), max_lanes (integers),
//   load_codes, store_codes, bit_or, take_bits(_at), sub, spread, multiply_add, look_up (16-entry byte table),
//   dot: acc[i] += sum over j < 4 of u[4 i + j] * x[j], exact, for codes up to 127,
//   dot_wide: the same for any byte; adds (u - 128) * x if kWideShift < 0, else u * x.
// Float operations are IEEE in every instruction set, so that a kernel gives the same bits in all of them (of a NaN only that it
// is one: its sign and payload differ between processors).
#pragma once

#if defined(SAMOVAR_USE_AVX512)
#include "simd_avx512.h"
#elif defined(SAMOVAR_USE_AVX2)
#include "simd_avx2.h"
#elif defined(SAMOVAR_USE_NEON)
#include "simd_neon.h"
#else
#include "simd_scalar.h"
#endif

namespace samovar::SAMOVAR_ISA {

#if !defined(SAMOVAR_USE_AVX2)  // which sums pairs in 16 bits, over narrow_steps steps
constexpr int narrow_steps(int) { return 1; }
using PairSums = I32x16;
inline PairSums pair_sums(U8x64 u, const int8_t* x) { return dot(set1_i32(0), u, x); }
#endif

inline I32x16 load_i32(const int32_t* p) { return as_i32(load(reinterpret_cast<const float*>(p))); }
inline void store_i32(int32_t* p, I32x16 a) { store(reinterpret_cast<float*>(p), as_f32(a)); }

inline F32x16 power_of_two(I32x16 n) { return as_f32(shl<23>(add(n, set1_i32(127)))); }

// e^x within 2 ulp: x = n ln 2 + r, a polynomial in r, two exact-enough scalings by powers of two (so that results below
// the normal range and infinity come out right). Coefficients: Taylor terms to r^7, |r| <= ln 2 / 2.
inline F32x16 exp(F32x16 x) {
  x = min(set1(89.0f), max(set1(-110.0f), x));
  const F32x16 n = round_even(mul(x, set1(1.44269504f)));
  F32x16 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F32x16 p = set1(1.0f / 5040.0f);
  p = fma(p, r, set1(1.0f / 720.0f));
  p = fma(p, r, set1(1.0f / 120.0f));
  p = fma(p, r, set1(1.0f / 24.0f));
  p = fma(p, r, set1(1.0f / 6.0f));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  const I32x16 whole = to_i32(n);
  const I32x16 first = shift_right<1>(whole);
  return mul(mul(p, power_of_two(first)), power_of_two(sub(whole, first)));
}

}  // namespace samovar::SAMOVAR_ISA
