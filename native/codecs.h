// How packed codes and scales are read into vectors. Layouts: formats.h.
#pragma once

#include <cstdint>

#include "formats.h"
#include "half.h"
#include "simd.h"

namespace samovar::SAMOVAR_ISA {

// What a kernel must know of a group: how many scales for each 32 k, whether minima are added, how the integer zero point is
// taken away (2^kZeroShift times the sum of the activations; none if negative), the largest code, and whether each row has a zero
// point of its own instead.
template <int kScales_, bool kHasMinimum_, int kZeroShift_, int kMostCode_, bool kHasZero_ = false>
struct Traits {
  static constexpr bool kHasZero = kHasZero_;
  static constexpr int kScales = kScales_;
  static constexpr bool kHasMinimum = kHasMinimum_;
  static constexpr int kZeroShift = kZeroShift_;
  static constexpr int kMostCode = kMostCode_;
};

template <class T>
struct Group {
  U8x64 codes[8];
  F32x16 scale[T::kScales];
  F32x16 minimum[T::kHasMinimum ? T::kScales : 1];
  I32x16 zero;  // the rows' own zero points, less what dot_wide takes away
};

// Where an integer dot product starts: minus zero point times the sum of the activations, which is -n_sum.
template <class T>
inline I32x16 start(const Group<T>& group, I32x16 n_sum) {
  if constexpr (T::kHasZero) return mul(group.zero, n_sum);
  if constexpr (T::kZeroShift < 0) return set1_i32(0);
  return shl < T::kZeroShift<0 ? 0 : T::kZeroShift>(n_sum);
}

// A group of one row group as it lies in memory when unpacked.
template <class T>
struct alignas(64) Unpacked {
  static_assert(!T::kHasMinimum || !T::kHasZero);
  uint8_t codes[8][64];
  float scale[T::kScales][16];
  union {
    float minimum[T::kHasMinimum ? T::kScales : 1][16];
    int32_t zero[16];
  };

  inline void read(Group<T>& group) const {
    if constexpr (T::kHasZero) group.zero = load_i32(zero);
    for (int j = 0; j < 8; ++j) group.codes[j] = load_codes(codes[j]);
    for (int s = 0; s < T::kScales; ++s) {
      group.scale[s] = load(scale[s]);
      if constexpr (T::kHasMinimum) group.minimum[s] = load(minimum[s]);
    }
  }
  inline void write(const Group<T>& group) {
    if constexpr (T::kHasZero) store_i32(zero, group.zero);
    for (int j = 0; j < 8; ++j) store_codes(codes[j], group.codes[j]);
    for (int s = 0; s < T::kScales; ++s) {
      store(scale[s], group.scale[s]);
      if constexpr (T::kHasMinimum) store(minimum[s], group.minimum[s]);
    }
  }
};

// ---- codes

template <int kFirst, int kBit, int kPlaneBits, int kStep>
inline U8x64 high_bits(U8x64 plane) {  // bits of step kStep, moved to bit kBit
  constexpr int kAt = (kStep - kFirst) * kPlaneBits;
  return take_bits<kAt - kBit>(plane, static_cast<uint8_t>(((1 << kPlaneBits) - 1) << kBit));
}

template <class Function>
[[gnu::always_inline]] inline void for_steps(Function f) {
  f.template operator()<0>();
  f.template operator()<1>();
  f.template operator()<2>();
  f.template operator()<3>();
  f.template operator()<4>();
  f.template operator()<5>();
  f.template operator()<6>();
  f.template operator()<7>();
}

inline void read_codes_1(const uint8_t* p, U8x64* codes) {  // in bit 1: the two values lie 2 apart
  const U8x64 plane = load_codes(p);
  for_steps([&]<int kStep>() { codes[kStep] = high_bits<0, 1, 1, kStep>(plane); });
}
inline void read_codes_2(const uint8_t* p, U8x64* codes) {
  const U8x64 first = load_codes(p), second = load_codes(p + 64);
  for_steps([&]<int kStep>() {
    codes[kStep] = kStep < 4 ? high_bits<0, 0, 2, kStep % 4>(first) : high_bits<0, 0, 2, kStep % 4>(second);
  });
}
[[gnu::always_inline]] inline void read_nibbles(const uint8_t* p, U8x64* codes) {
  for (int j = 0; j < 4; ++j) {
    const U8x64 both = load_codes(p + 64 * j);
    codes[j] = take_bits<0>(both, 15);
    codes[j + 4] = take_bits<4>(both, 15);
  }
}
inline void read_codes_4(const uint8_t* p, U8x64* codes) { read_nibbles(p, codes); }
template <int kBit>
inline void or_bit_plane(const uint8_t* p, U8x64* codes) {
  const U8x64 plane = load_codes(p);
  for_steps([&]<int kStep>() { codes[kStep] = bit_or(codes[kStep], high_bits<0, kBit, 1, kStep>(plane)); });
}

template <int kBits>
[[gnu::always_inline]] inline void read_codes(const uint8_t* p, U8x64* codes) {
  if constexpr (kBits == 1) read_codes_1(p, codes);
  if constexpr (kBits == 2) read_codes_2(p, codes);
  if constexpr (kBits == 3) {
    read_codes_2(p, codes);
    or_bit_plane<2>(p + 128, codes);
  }
  if constexpr (kBits == 4) read_nibbles(p, codes);
  if constexpr (kBits == 5 || kBits == 6) read_codes_4(p, codes);  // a call on AVX2, which has no registers for all steps
  if constexpr (kBits == 5) or_bit_plane<4>(p + 256, codes);
  if constexpr (kBits == 6) {
    const U8x64 first = load_codes(p + 256), second = load_codes(p + 320);
    for_steps([&]<int kStep>() {
      const U8x64 plane = kStep < 4 ? first : second;
      codes[kStep] = bit_or(codes[kStep], high_bits<0, 4, 2, kStep % 4>(plane));
    });
  }
  if constexpr (kBits == 8) {
    for (int j = 0; j < 8; ++j) codes[j] = load_codes(p + 64 * j);
  }
}

// The codes of one step, read alone: for few registers.
template <int kBits, int kStep>
inline U8x64 read_step(const uint8_t* p) {
  const auto plane = [&]<int kAt, int kPlaneBits>() {
    constexpr int kBit = kStep * kPlaneBits;
    return take_bits<kBit % 8>(load_codes(p + kAt + 64 * (kBit / 8)), static_cast<uint8_t>((1 << kPlaneBits) - 1));
  };
  if constexpr (kBits == 1) return high_bits<0, 1, 1, kStep>(load_codes(p));
  if constexpr (kBits == 2) return plane.template operator()<0, 2>();
  if constexpr (kBits == 3) return bit_or(plane.template operator()<0, 2>(), high_bits<0, 2, 1, kStep>(load_codes(p + 128)));
  if constexpr (kBits == 8) return load_codes(p + 64 * kStep);
  const U8x64 low = take_bits<kStep / 4 * 4>(load_codes(p + 64 * (kStep % 4)), 15);
  if constexpr (kBits == 5) return bit_or(low, high_bits<0, 4, 1, kStep>(load_codes(p + 256)));
  if constexpr (kBits == 6) return bit_or(low, high_bits<0, 4, 2, kStep % 4>(load_codes(p + 256 + 64 * (kStep / 4))));
  return low;
}
// The same of a step that is no constant.
template <int kBits>
inline U8x64 read_step(const uint8_t* p, int step) {
  const auto plane = [&](int64_t at, int bits) {  // of the planes at `at`, 8 / bits steps in each run of 64 bytes
    return take_bits_at(load_codes(p + at + 64 * (step * bits / 8)), step * bits % 8, static_cast<uint8_t>((1 << bits) - 1));
  };
  if constexpr (kBits == 1) return take_bits<-1>(plane(0, 1), 2);
  if constexpr (kBits == 2) return plane(0, 2);
  if constexpr (kBits == 3) return bit_or(plane(0, 2), take_bits<-2>(plane(128, 1), 4));
  if constexpr (kBits == 8) return load_codes(p + 64 * step);
  const U8x64 low = take_bits_at(load_codes(p + 64 * (step % 4)), step / 4 * 4, 15);
  if constexpr (kBits == 5) return bit_or(low, take_bits<-4>(plane(256, 1), 16));
  if constexpr (kBits == 6) return bit_or(low, take_bits<-4>(plane(256, 2), 48));
  return low;
}

template <class Values>
struct ByteTable {
  uint8_t bytes[16];
  constexpr ByteTable(const Values& values, int bias) : bytes{} {
    for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(values[i] + bias);
  }
};
inline constexpr ByteTable<int8_t[16]> kIq4Bytes(kIq4Values, 128);
inline constexpr ByteTable<int8_t[16]> kFp4Bytes(kFp4Values, 16);
inline constexpr ByteTable<int8_t[16]> kIq1Bytes(kIq1Values, 16), kIq2Bytes(kIq2Values, 64);
inline constexpr ByteTable<int8_t[16]> kIq3Bytes(kIq3Values, 64), kOddBytes(kOddValues, 16);

// ---- scales: head points at this 256-block's float16 heads, p at this group's scales

inline const uint16_t* halves(const uint8_t* p) { return reinterpret_cast<const uint16_t*>(p); }

inline const float* floats(const uint8_t* p) { return reinterpret_cast<const float*>(p); }

template <class Function>
inline F32x16 from_table(const uint8_t* p, Function scale) {
  float v[16];
  for (int i = 0; i < 16; ++i) v[i] = scale(p[i]);
  return load(v);
}

inline float mxfp4_scale_of(uint8_t byte) {
  return f32_from_bits(byte < 2 ? 0x00200000u << byte : static_cast<uint32_t>(byte - 1) << 23);
}
inline float nvfp4_scale_of(uint8_t byte) {
  return byte == 0x7F ? 0.0f : f32_from_bits(static_cast<uint32_t>(byte & 0x7F) << 20) * 0x1p119f;
}

template <Type kType, class T>
inline void read_scales(const uint8_t* head, const uint8_t* p, Group<T>& group) {
  if constexpr (kType == Type::kQ4_0 || kType == Type::kQ5_0 || kType == Type::kQ8_0 || kType == Type::kIQ4_NL ||
                kType == Type::kQ1_0 || kType == Type::kQ2_0) {
    group.scale[0] = load_f16(halves(p));
  } else if constexpr (kType == Type::kQ4_1 || kType == Type::kQ5_1) {
    group.scale[0] = load_f16(halves(p));
    group.minimum[0] = load_f16(halves(p + 32));
  } else if constexpr (kType == Type::kQ4_K || kType == Type::kQ5_K) {
    group.scale[0] = mul(load_f16(halves(head)), load_u8(p));
    group.minimum[0] = neg(mul(load_f16(halves(head + 32)), load_u8(p + 16)));
  } else if constexpr (kType == Type::kIQ4_XS) {
    group.scale[0] = mul(load_f16(halves(head)), load_i8(p));
  } else if constexpr (kType == Type::kQ3_K || kType == Type::kQ6_K) {
    const F32x16 d = load_f16(halves(head));
    group.scale[0] = mul(d, load_i8(p));
    group.scale[1] = mul(d, load_i8(p + 16));
  } else if constexpr (kType == Type::kQ2_K) {
    const F32x16 d = load_f16(halves(head)), d_min = load_f16(halves(head + 32));
    for (int h = 0; h < 2; ++h) {
      uint8_t low[16], high[16];
      for (int i = 0; i < 16; ++i) {
        low[i] = p[16 * h + i] & 15;
        high[i] = p[16 * h + i] >> 4;
      }
      group.scale[h] = mul(d, load_u8(low));
      group.minimum[h] = neg(mul(d_min, load_u8(high)));
    }
  } else if constexpr (kType == Type::kTQ2_0) {
    group.scale[0] = load_f16(halves(head));
  } else if constexpr (kType == Type::kIQ3_S) {
    group.scale[0] = mul(load_f16(halves(head)), load_u8(p));
  } else if constexpr (kType == Type::kIQ2_XXS || kType == Type::kIQ3_XXS) {
    group.scale[0] = mul(mul(load_f16(halves(head)), load_u8(p)), set1(kType == Type::kIQ2_XXS ? 0.125f : 0.25f));
  } else if constexpr (kType == Type::kIQ2_S || kType == Type::kIQ1_M) {
    const F32x16 d = mul(load_f16(halves(head)), set1(0.25f));
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; ++i) {
      low[i] = p[i] & 15;
      high[i] = p[i] >> 4;
    }
    group.scale[0] = mul(d, add(load_u8(low), set1(0.5f)));  // exact, as (2 s + 1) / 8 is
    group.scale[1] = mul(d, add(load_u8(high), set1(0.5f)));
  } else if constexpr (kType == Type::kIQ1_S) {
    uint8_t odd[16], zero[16];
    for (int i = 0; i < 16; ++i) {
      odd[i] = p[i] & 127;
      zero[i] = static_cast<uint8_t>(7 + (p[i] >> 7) * 2);
    }
    group.scale[0] = mul(mul(load_f16(halves(head)), load_u8(odd)), set1(0.125f));
    group.zero = to_i32(load_u8(zero));
  } else if constexpr (kType == Type::kU4_32) {
    group.scale[0] = load(floats(p));
    group.zero = to_i32(load_u8(p + 64));
  } else if constexpr (kType == Type::kU8_32) {
    group.scale[0] = load(floats(p));
    group.zero = to_i32(sub(load_f16(halves(p + 64)), set1(kWideShift < 0 ? 128.0f : 0.0f)));
  } else if constexpr (kType == Type::kMXFP4) {
    group.scale[0] = from_table(p, mxfp4_scale_of);
  } else {
    static_assert(kType == Type::kNVFP4);
    group.scale[0] = from_table(p, nvfp4_scale_of);
    group.scale[1] = from_table(p + 16, nvfp4_scale_of);
  }
}

// ---- one codec for each type

template <Type kType_, int kBits_, class T>
struct Codec {
  using Meaning = T;
  static constexpr Type kType = kType_;
  static constexpr int kBits = kBits_;
  static constexpr bool kHasBlockScales = has_block_scales(kType);
  static constexpr int64_t kPayloadBytes = kBits * 64;

  [[gnu::always_inline]] static inline void read(const uint8_t* payload, const uint8_t* head, const uint8_t* scales, Group<T>& group) {
    read_codes<kBits>(payload, group.codes);
    if constexpr (kType == Type::kIQ1_M) {
      const U8x64 shifts = spread(scales + 16);
      for_steps([&]<int kStep>() { group.codes[kStep] = bit_or(group.codes[kStep], take_bits<kStep / 2 - 2>(shifts, 4)); });
    }
    for (U8x64& c : group.codes) c = meaning(c);
    read_scales(head, scales, group);
  }
  static inline U8x64 read_step(const uint8_t* payload, [[maybe_unused]] const uint8_t* scales, int step) {
    const U8x64 codes = SAMOVAR_ISA::read_step<kBits>(payload, step);
    if constexpr (kType == Type::kIQ1_M) {
      return meaning(bit_or(codes, take_bits<-2>(take_bits_at(spread(scales + 16), step / 2, 1), 4)));
    }
    return meaning(codes);
  }
  template <int kStep>
  static inline U8x64 read_step(const uint8_t* payload, [[maybe_unused]] const uint8_t* scales) {
    const U8x64 codes = SAMOVAR_ISA::read_step<kBits, kStep>(payload);
    if constexpr (kType == Type::kIQ1_M) return meaning(bit_or(codes, take_bits<kStep / 2 - 2>(spread(scales + 16), 4)));
    return meaning(codes);
  }
  static inline void read_scales(const uint8_t* head, const uint8_t* scales, Group<T>& group) {
    SAMOVAR_ISA::read_scales<kType>(head, scales, group);
  }

 private:
  static inline U8x64 meaning(U8x64 codes) {
    if constexpr (kType == Type::kIQ4_NL || kType == Type::kIQ4_XS) return look_up(kIq4Bytes.bytes, codes);
    if constexpr (kType == Type::kMXFP4 || kType == Type::kNVFP4) return look_up(kFp4Bytes.bytes, codes);
    if constexpr (kType == Type::kIQ2_XXS || kType == Type::kIQ2_S) return look_up(kIq2Bytes.bytes, codes);
    if constexpr (kType == Type::kIQ3_XXS) return look_up(kIq3Bytes.bytes, codes);
    if constexpr (kType == Type::kIQ3_S) return look_up(kOddBytes.bytes, codes);
    if constexpr (kType == Type::kIQ1_M) return look_up(kIq1Bytes.bytes, codes);
    if constexpr (kType == Type::kIQ1_S) return take_bits<-3>(codes, 24);
    return codes;
  }
};

template <int kMostCode>
using WithMinimum = Traits<1, true, -1, kMostCode>;
using Wide = Traits<1, false, kWideShift, 255>;
using CodecQ4_0 = Codec<Type::kQ4_0, 4, Traits<1, false, 3, 15>>;
using CodecQ4_1 = Codec<Type::kQ4_1, 4, WithMinimum<15>>;
using CodecQ5_0 = Codec<Type::kQ5_0, 5, Traits<1, false, 4, 31>>;
using CodecQ5_1 = Codec<Type::kQ5_1, 5, WithMinimum<31>>;
using CodecQ8_0 = Codec<Type::kQ8_0, 8, Wide>;
using CodecQ2_K = Codec<Type::kQ2_K, 2, Traits<2, true, -1, 3>>;
using CodecQ3_K = Codec<Type::kQ3_K, 3, Traits<2, false, 2, 7>>;
using CodecQ4_K = Codec<Type::kQ4_K, 4, WithMinimum<15>>;
using CodecQ5_K = Codec<Type::kQ5_K, 5, WithMinimum<31>>;
using CodecQ6_K = Codec<Type::kQ6_K, 6, Traits<2, false, 5, 63>>;
using CodecIQ4_NL = Codec<Type::kIQ4_NL, 4, Wide>;
using CodecIQ4_XS = Codec<Type::kIQ4_XS, 4, Wide>;
template <int kMostCode>
using OfSixBits = Traits<1, false, 6, kMostCode>;
using OneBelow = Traits<1, false, 0, 3>;
using CodecIQ1_S = Codec<Type::kIQ1_S, 2, Traits<1, false, -1, 24, true>>;
using CodecIQ1_M = Codec<Type::kIQ1_M, 2, Traits<2, false, 4, 16 + 9>>;
using CodecIQ2_XXS = Codec<Type::kIQ2_XXS, 3, OfSixBits<64 + 43>>;
using CodecIQ2_S = Codec<Type::kIQ2_S, 3, Traits<2, false, 6, 64 + 43>>;  // and IQ2_XS
using CodecIQ3_XXS = Codec<Type::kIQ3_XXS, 4, OfSixBits<64 + 62>>;
using CodecIQ3_S = Codec<Type::kIQ3_S, 4, Traits<1, false, 4, 16 + 15>>;
using CodecTQ = Codec<Type::kTQ2_0, 2, OneBelow>;  // both
using CodecQ1_0 = Codec<Type::kQ1_0, 1, OneBelow>;
using CodecQ2_0 = Codec<Type::kQ2_0, 2, OneBelow>;
using CodecMXFP4 = Codec<Type::kMXFP4, 4, Traits<1, false, 4, 16 + 12>>;
using CodecU4 = Codec<Type::kU4_32, 4, Traits<1, false, -1, 15, true>>;  // of all block sizes
using CodecU8 = Codec<Type::kU8_32, 8, Traits<1, false, -1, 255, true>>;
using CodecNVFP4 = Codec<Type::kNVFP4, 4, Traits<2, false, 4, 16 + 12>>;

}  // namespace samovar::SAMOVAR_ISA
