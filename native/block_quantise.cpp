// float32 rows to the blocks of GGUF's quantised types, as samovar.kernels.quantise defines them; the search is in block_search.h.
#include "block_search.h"

namespace samovar::SAMOVAR_ISA {
namespace {

using Encode = void (*)(const float* x, const float* w, uint8_t* out);

// No negative zero.
void write_half(float x, uint8_t* out) {
  const uint16_t bits = f32_to_f16(x + 0.0f);
  std::memcpy(out, &bits, 2);
}

void encode_q8_0(const float* x, const float* w, uint8_t* out) {
  const Integers codes{-127.0f, 127.0f};
  const float amax = magnitude(extreme(x, kGroup));
  float q[kGroup], scale = 0.0f, least = __builtin_inff();
  for (int step = -1; step <= 9; ++step) {  // the last is for the codes of the best
    const float s = step == 9 ? scale : half(amax * static_cast<float>((1 + step / 256.0) / 127));
    const float inverse_scale = inverse(s);
    for (int i = 0; i < kGroup; ++i) q[i] = codes(x[i] * inverse_scale);
    const float error = error_of<kGroup>(x, w, q, s, 0.0f);
    if (error < least) {
      least = error;
      scale = s;
    }
  }
  write_half(scale, out);
  for (int i = 0; i < kGroup; ++i) out[2 + i] = static_cast<uint8_t>(static_cast<int>(q[i]));
}

void encode_q4_0(const float* x, const float* w, uint8_t* out) {
  const Integers codes{-8.0f, 7.0f};
  const float scale = half(one_scale<kGroup>(x, w, codes, -8.0f, kFineGrid)), inverse_scale = inverse(scale);
  write_half(scale, out);
  for (int i = 0; i < 16; ++i) {
    const int low = static_cast<int>(codes(x[i] * inverse_scale)), high = static_cast<int>(codes(x[i + 16] * inverse_scale));
    out[2 + i] = static_cast<uint8_t>((low + 8) | (high + 8) << 4);
  }
}

// Nibbles of 32 codes, the first 16 in the low ones; bits 4 of all 32 go to `fifth`, where there is room for them.
void write_codes(const int* q, uint8_t* fifth, uint8_t* nibbles) {
  for (int i = 0; i < 16; ++i) nibbles[i] = static_cast<uint8_t>((q[i] & 15) | (q[i + 16] & 15) << 4);
  if (fifth == nullptr) return;
  for (int byte = 0; byte < 4; ++byte) {
    int bits = 0;
    for (int bit = 0; bit < 8; ++bit) bits |= (q[8 * byte + bit] >> 4) << bit;
    fifth[byte] = static_cast<uint8_t>(bits);
  }
}

void encode_q5_0(const float* x, const float* w, uint8_t* out) {
  const Integers codes{-16.0f, 15.0f};
  const float scale = half(one_scale<kGroup>(x, w, codes, -16.0f, kFineGrid)), inverse_scale = inverse(scale);
  int q[kGroup];
  for (int i = 0; i < kGroup; ++i) q[i] = static_cast<int>(codes(x[i] * inverse_scale)) + 16;
  write_half(scale, out);
  write_codes(q, out + 2, out + 6);
}

// Scale, minimum and codes from 0 to top.
void encode_from_zero(const float* x, const float* w, float top, uint8_t* head, int* q) {
  PairSearch pair(x, w, top);
  pair.search();
  const float scale = half(pair.scale), minimum = half(pair.minimum), inverse_scale = inverse(scale);
  for (int i = 0; i < kGroup; ++i) q[i] = static_cast<int>(clamp(rint((x[i] + minimum) * inverse_scale), 0.0f, top));
  write_half(scale, head);
  write_half(-minimum, head + 2);
}

void encode_q4_1(const float* x, const float* w, uint8_t* out) {
  int q[kGroup];
  encode_from_zero(x, w, 15.0f, out, q);
  write_codes(q, nullptr, out + 4);
}

void encode_q5_1(const float* x, const float* w, uint8_t* out) {
  int q[kGroup];
  encode_from_zero(x, w, 31.0f, out, q);
  write_codes(q, out + 4, out + 8);
}

void encode_iq4_nl(const float* x, const float* w, uint8_t* out) {
  const float scale = half(one_scale<kGroup>(x, w, Iq4Values{}, -127.0f, kFineGrid)), inverse_scale = inverse(scale);
  write_half(scale, out);
  for (int i = 0; i < 16; ++i) {
    out[2 + i] = static_cast<uint8_t>(Iq4Values::index(x[i] * inverse_scale) | Iq4Values::index(x[i + 16] * inverse_scale) << 4);
  }
}

constexpr int kBlock = 256, kSixteen = 16;

// x ~ d * c[j] * q for 16 groups of 16.
struct SharedScale {
  float d, c[kSixteen], q[kBlock];
};

// The best of the integer scales next to c[j], and its codes.
void choose_near(const float* x, const float* w, const Integers& codes, SharedScale& found) {
  for (int j = 0; j < kSixteen; ++j, x += kSixteen, w += kSixteen) {
    const float start = found.c[j];
    float least = __builtin_inff();
    for (const int step : kNear) {
      const float near = clamp(start + static_cast<float>(step), -128.0f, 127.0f), s = found.d * near, inverse_scale = inverse(s);
      float q[kSixteen];
      for (int i = 0; i < kSixteen; ++i) q[i] = codes(x[i] * inverse_scale);
      const float error = error_of<kSixteen>(x, w, q, s, 0.0f);
      if (error < least) {
        least = error;
        found.c[j] = near;
        std::memcpy(found.q + j * kSixteen, q, sizeof q);
      }
    }
  }
}

SharedScale shared_scale(const float* x, const float* w) {
  const Integers codes{-32.0f, 31.0f};
  SharedScale found;
  float scales[kSixteen];
  for (int j = 0; j < kSixteen; ++j) {
    scales[j] = one_scale<kSixteen>(x + j * kSixteen, w + j * kSixteen, codes, -32.0f, kSixBitGrid);
  }
  found.d = half(extreme(scales, kSixteen) * static_cast<float>(1.0 / -128));
  const float inverse_d = inverse(found.d);
  for (int j = 0; j < kSixteen; ++j) found.c[j] = clamp(rint(scales[j] * inverse_d), -128.0f, 127.0f);
  choose_near(x, w, codes, found);
  float sum_xt = 0.0f, sum_tt = 0.0f;
  for (int j = 0; j < kSixteen; ++j) {
    float a[kSixteen], b[kSixteen];
    for (int i = 0; i < kSixteen; ++i) {
      const int at = j * kSixteen + i;
      const float t = found.q[at] * found.c[j], wt = w[at] * t;
      a[i] = wt * x[at];
      b[i] = wt * t;
    }
    const float xt = folded<kSixteen>(a), tt = folded<kSixteen>(b);
    sum_xt = j == 0 ? xt : sum_xt + xt;
    sum_tt = j == 0 ? tt : sum_tt + tt;
  }
  const float better = half(quotient(sum_xt, sum_tt));
  if (better != 0.0f) found.d = better;
  choose_near(x, w, codes, found);
  return found;
}

void encode_q6_k(const float* x, const float* w, uint8_t* out) {
  const SharedScale found = shared_scale(x, w);
  for (int part = 0; part < 2; ++part) {
    const float* q = found.q + 128 * part;
    const auto code = [&](int run, int i) { return static_cast<int>(q[32 * run + i]) + 32; };
    for (int i = 0; i < 32; ++i) {
      const int c0 = code(0, i), c1 = code(1, i), c2 = code(2, i), c3 = code(3, i);
      out[64 * part + i] = static_cast<uint8_t>((c0 & 15) | (c2 & 15) << 4);
      out[64 * part + 32 + i] = static_cast<uint8_t>((c1 & 15) | (c3 & 15) << 4);
      out[128 + 32 * part + i] = static_cast<uint8_t>(c0 >> 4 | (c1 >> 4) << 2 | (c2 >> 4) << 4 | (c3 >> 4) << 6);
    }
  }
  for (int j = 0; j < kSixteen; ++j) out[192 + j] = static_cast<uint8_t>(static_cast<int>(found.c[j]));
  write_half(found.d, out + 208);
}

constexpr int kEight = 8;

// x ~ d * c[j] * q - e * m[j] for 8 groups of 32.
struct SharedScales {
  float d, e, c[kEight], m[kEight], q[kBlock];
};

// The best of the pairs of integers next to c[j] and m[j], and its codes.
void choose_near(const float* x, const float* w, float top, SharedScales& found) {
  for (int j = 0; j < kEight; ++j, x += kGroup, w += kGroup) {
    const float start_c = found.c[j], start_m = found.m[j];
    float least = __builtin_inff();
    for (const int step_c : kNear) {
      for (const int step_m : kNear) {
        const float c = clamp(start_c + static_cast<float>(step_c), 0.0f, 63.0f);
        const float m = clamp(start_m + static_cast<float>(step_m), 0.0f, 63.0f);
        const float s = found.d * c, minimum = found.e * m, inverse_scale = inverse(s);
        float q[kGroup];
        for (int i = 0; i < kGroup; ++i) q[i] = clamp(rint((x[i] + minimum) * inverse_scale), 0.0f, top);
        const float error = error_of<kGroup>(x, w, q, s, minimum);
        if (error < least) {
          least = error;
          found.c[j] = c;
          found.m[j] = m;
          std::memcpy(found.q + j * kGroup, q, sizeof q);
        }
      }
    }
  }
}

// d and e with the least error for the integers found, where these tell them.
void fit_both(const float* x, const float* w, SharedScales& found) {
  float tt = 0.0f, xt = 0.0f, mm = 0.0f, tm = 0.0f, xm = 0.0f;
  for (int j = 0; j < kEight; ++j) {
    float a[kGroup], b[kGroup], c[kGroup], d[kGroup], e[kGroup];
    for (int i = 0; i < kGroup; ++i) {
      const int at = j * kGroup + i;
      const float t = found.q[at] * found.c[j], wt = w[at] * t;
      a[i] = wt * t;
      b[i] = wt * x[at];
      c[i] = w[at];
      d[i] = wt;
      e[i] = w[at] * x[at];
    }
    const float m = found.m[j], sums[5] = {folded<kGroup>(a), folded<kGroup>(b), folded<kGroup>(c) * m * m, folded<kGroup>(d) * m,
                                           folded<kGroup>(e) * m};
    float* totals[5] = {&tt, &xt, &mm, &tm, &xm};
    for (int k = 0; k < 5; ++k) *totals[k] = j == 0 ? sums[k] : *totals[k] + sums[k];
  }
  const float determinant = tt * mm - tm * tm;
  const float d = half(quotient(mm * xt - tm * xm, determinant)), e = half(quotient(tm * xt - tt * xm, determinant));
  if (determinant > 1e-6f * tt * mm && d > 0.0f && e >= 0.0f) {
    found.d = d;
    found.e = e;
  }
}

SharedScales shared_scales(const float* x, const float* w, float top) {
  SharedScales found;
  float scales[kEight], minima[kEight], most_s = 0.0f, most_m = 0.0f;
  for (int j = 0; j < kEight; ++j) {
    PairSearch pair(x + j * kGroup, w + j * kGroup, top);
    pair.search();
    scales[j] = pair.scale;
    minima[j] = pair.minimum;
    most_s = scales[j] > most_s ? scales[j] : most_s;
    most_m = minima[j] > most_m ? minima[j] : most_m;
  }
  constexpr float kInverse63 = static_cast<float>(1.0 / 63);
  found.d = half(most_s * kInverse63);
  found.e = half(most_m * kInverse63);
  const float inverse_d = inverse(found.d), inverse_e = inverse(found.e);
  for (int j = 0; j < kEight; ++j) {
    found.c[j] = clamp(rint(scales[j] * inverse_d), 0.0f, 63.0f);
    found.m[j] = clamp(rint(minima[j] * inverse_e), 0.0f, 63.0f);
  }
  choose_near(x, w, top, found);
  fit_both(x, w, found);
  choose_near(x, w, top, found);
  return found;
}

// Writes the 16 bytes of scales that Q4_K and Q5_K begin with.
void write_scales(const SharedScales& found, uint8_t* out) {
  write_half(found.d, out);
  write_half(found.e, out + 2);
  for (int j = 0; j < 4; ++j) {
    const int c = static_cast<int>(found.c[j]), m = static_cast<int>(found.m[j]);
    const int upper_c = static_cast<int>(found.c[j + 4]), upper_m = static_cast<int>(found.m[j + 4]);
    out[4 + j] = static_cast<uint8_t>(c | (upper_c >> 4) << 6);
    out[8 + j] = static_cast<uint8_t>(m | (upper_m >> 4) << 6);
    out[12 + j] = static_cast<uint8_t>((upper_c & 15) | (upper_m & 15) << 4);
  }
}

void write_nibbles(const SharedScales& found, uint8_t* out) {
  for (int pair = 0; pair < 4; ++pair) {
    const float* q = found.q + 64 * pair;
    for (int i = 0; i < 32; ++i) {
      out[32 * pair + i] = static_cast<uint8_t>((static_cast<int>(q[i]) & 15) | (static_cast<int>(q[i + 32]) & 15) << 4);
    }
  }
}

void encode_q4_k(const float* x, const float* w, uint8_t* out) {
  const SharedScales found = shared_scales(x, w, 15.0f);
  write_scales(found, out);
  write_nibbles(found, out + 16);
}

void encode_q5_k(const float* x, const float* w, uint8_t* out) {
  const SharedScales found = shared_scales(x, w, 31.0f);
  write_scales(found, out);
  for (int i = 0; i < kGroup; ++i) {
    int bits = 0;
    for (int j = 0; j < kEight; ++j) bits |= (static_cast<int>(found.q[j * kGroup + i]) >> 4) << j;
    out[16 + i] = static_cast<uint8_t>(bits);
  }
  write_nibbles(found, out + 48);
}

Encode encoder(Type type) {
  switch (type) {
    case Type::kQ8_0:
      return encode_q8_0;
    case Type::kQ5_1:
      return encode_q5_1;
    case Type::kQ5_0:
      return encode_q5_0;
    case Type::kQ4_1:
      return encode_q4_1;
    case Type::kQ4_0:
      return encode_q4_0;
    case Type::kIQ4_NL:
      return encode_iq4_nl;
    case Type::kQ6_K:
      return encode_q6_k;
    case Type::kQ5_K:
      return encode_q5_k;
    case Type::kQ4_K:
      return encode_q4_k;
    default:
      return nullptr;
  }
}

}  // namespace

bool quantise_blocks(const Format& format, const float* x, const float* importance, int64_t n, uint8_t* out) {
  const Encode encode = encoder(format.type);
  if (encode == nullptr) return false;
  const auto weigh = format.block_elements == kBlock ? search_weights<kBlock, false>
                     : format.type == Type::kQ4_0    ? search_weights<kGroup, true>
                                                     : search_weights<kGroup, false>;
  float weights[kBlock];
  for (int64_t k = 0; k < n; k += format.block_elements, out += format.block_bytes) {
    weigh(x + k, importance + k, weights);
    encode(x + k, weights, out);
  }
  return true;
}

}  // namespace samovar::SAMOVAR_ISA
