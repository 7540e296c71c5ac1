// How input rows are rounded to 8 bits and outliers; layouts in kernels.h.
#pragma once

#include "half.h"
#include "kernels.h"
#include "simd.h"

namespace samovar::SAMOVAR_ISA {

inline constexpr float kLargestCode = 127.0f;
inline constexpr float kMostHigh = 127.0f;
inline constexpr float kOutlierAbove = 4.0f;  // times its row's root mean square, and a value is an outlier
inline constexpr float kLeastReach = 1e-30f;  // a largest value below counts as zero: its reciprocal would overflow

// Magnitudes compare as integers do, with what is no number above all, so that it is not lost.
inline float largest_of(I32x16 magnitudes) { return f32_from_bits(static_cast<uint32_t>(max_lanes(magnitudes))); }

// Above which magnitude a value is an outlier of its row.
inline float outlier_limit(const float* row, int64_t n) {
  F32x16 energy = set1(0.0f);
  for (int64_t k = 0; k < n; k += 16) energy = fma(load(row + k), load(row + k), energy);
  return kOutlierAbove * __builtin_sqrtf(sum_lanes(energy) / static_cast<float>(n));
}

// Leave 8 bits of the codes of group g, and put the rest, multiples of 128, into the list: for each code the least multiple.
inline void take_outliers(I32x16& q_first, I32x16& q_second, int64_t g, float d, const RowOutliers& outliers) {
  const I32x16 zero = set1_i32(0), most = set1_i32(static_cast<int32_t>(kLargestCode)), round_up = set1_i32((1 << kHighBits) - 1);
  int8_t high[kGroup];
  const auto split = [&](I32x16& all, int8_t* to) {
    const I32x16 above = max(sub(all, most), zero), below = max(sub(sub(zero, all), most), zero);
    const I32x16 multiple = sub(shift_right<kHighBits>(add(above, round_up)), shift_right<kHighBits>(add(below, round_up)));
    all = sub(all, shl<kHighBits>(multiple));
    store_i8(to, multiple);
  };
  split(q_first, high);
  split(q_second, high + 16);
  for (int step = 0; step < 8; ++step) {  // each is written, and stays if it has a high part
    Outlier& next = outliers.list[outliers.n];
    std::memcpy(next.high, high + 4 * step, 4);
    next.at = static_cast<int32_t>(8 * g) + step;
    next.n_sum = -(next.high[0] + next.high[1] + next.high[2] + next.high[3]);
    next.d = d * (1 << kHighBits);
    outliers.n += (next.high[0] | next.high[1] | next.high[2] | next.high[3]) != 0;
  }
}

}  // namespace samovar::SAMOVAR_ISA
