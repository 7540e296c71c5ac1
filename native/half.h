// float16 and bfloat16 bits to float32 and back, exactly and without special instructions. Rounding is to nearest even.
#pragma once

#include <cstdint>
#include <cstring>

namespace samovar {

static inline float f32_from_bits(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
static inline uint32_t bits_from_f32(float x) {
  uint32_t out;
  std::memcpy(&out, &x, 4);
  return out;
}

static inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t rest = h & 0x7FFFu;
  if (rest >= 0x7C00u) return f32_from_bits(sign | 0x7F800000u | ((rest & 0x3FFu) << 13));
  // A float16 moved into the float32 fields is too small by 2^112; the product is exact for subnormals too.
  return f32_from_bits(sign | bits_from_f32(f32_from_bits(rest << 13) * 0x1p112f));
}

static inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = bits_from_f32(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t rest = bits & 0x7FFFFFFFu;
  if (rest > 0x7F800000u)
    return static_cast<uint16_t>(sign | 0x7E00u | ((rest >> 13) & 0x3FFu));  // NaN keeps its payload's top
  if (rest >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7C00u);
  if (rest < 0x38800000u) {  // below the smallest normal: adding 0.5 leaves the rounded count of 2^-24 in the low bits
    const float sum = f32_from_bits(rest) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_from_f32(sum) - 0x3F000000u));
  }
  const uint32_t rounded = rest + 0xFFFu + ((rest >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

static inline float bf16_to_f32(uint16_t h) { return f32_from_bits(static_cast<uint32_t>(h) << 16); }

static inline uint16_t f32_to_bf16(float x) {
  const uint32_t bits = bits_from_f32(x);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace samovar
