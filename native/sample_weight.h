// The weight of a score in sampling (sample.h states the formula). Kept apart so that row passes and single scores share it.
#pragma once

#include <cstdint>

namespace samovar {
namespace {  // a copy for each file: these are compiled for different instruction sets

constexpr double kSampleUnit = 0x1p-34;  // weights are multiples of it
constexpr double kWeightless = -25.0;    // e^-25 is below half a unit

inline double sample_weight(float score, float top, double inverse_temperature, double floor) {
  constexpr double kToInteger = 0x1.8p52;  // adding it rounds to an integer, which its low bits hold
  constexpr double kToUnits = 0x1.8p18;    // adding it rounds to a multiple of 2^-34
  const double scaled = (static_cast<double>(score) - static_cast<double>(top)) * inverse_temperature;
  const double y = scaled > kWeightless ? scaled : kWeightless;
  const double shifted = y * 1.4426950408889634 + kToInteger;
  const double n = shifted - kToInteger;
  const double r = (y - n * 0.693145751953125) - n * 1.4286068203094172e-06;
  double p = 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const double power =
      __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, p) + (__builtin_bit_cast(uint64_t, shifted) << 52));
  const double weight = (power + kToUnits) - kToUnits;
  return weight >= floor ? weight : 0.0;
}

}  // namespace
}  // namespace samovar
