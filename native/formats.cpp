#include "formats.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "half.h"

namespace samovar {
namespace {

constexpr Format kFormats[] = {
    // type, block elements and bytes, code bits, heads, scales, bytes of a scale
    {Type::kF32, 1, 4, 32, 0, 0, 0},     {Type::kF16, 1, 2, 16, 0, 0, 0},     {Type::kBF16, 1, 2, 16, 0, 0, 0},
    {Type::kQ4_0, 32, 18, 4, 0, 1, 2},   {Type::kQ4_1, 32, 20, 4, 0, 2, 2},   {Type::kQ5_0, 32, 22, 5, 0, 1, 2},
    {Type::kQ5_1, 32, 24, 5, 0, 2, 2},   {Type::kQ8_0, 32, 34, 8, 0, 1, 2},   {Type::kQ2_K, 256, 84, 2, 2, 2, 1},
    {Type::kQ3_K, 256, 110, 3, 1, 2, 1}, {Type::kQ4_K, 256, 144, 4, 2, 2, 1}, {Type::kQ5_K, 256, 176, 5, 2, 2, 1},
    {Type::kQ6_K, 256, 210, 6, 1, 2, 1}, {Type::kIQ4_NL, 32, 18, 4, 0, 1, 2}, {Type::kIQ4_XS, 256, 136, 4, 1, 1, 1},
    {Type::kMXFP4, 32, 17, 4, 0, 1, 1},  {Type::kNVFP4, 64, 36, 4, 0, 2, 1},
    {Type::kIQ1_S, 256, 50, 2, 1, 1, 1},  {Type::kIQ1_M, 256, 56, 2, 1, 2, 1},  {Type::kIQ2_XXS, 256, 66, 3, 1, 1, 1},
    {Type::kIQ2_XS, 256, 74, 3, 1, 1, 1}, {Type::kIQ2_S, 256, 82, 3, 1, 1, 1},  {Type::kIQ3_XXS, 256, 98, 4, 1, 1, 1},
    {Type::kIQ3_S, 256, 110, 4, 1, 1, 1}, {Type::kTQ1_0, 256, 54, 2, 1, 0, 0},  {Type::kTQ2_0, 256, 66, 2, 1, 0, 0},
    {Type::kQ1_0, 128, 18, 1, 0, 1, 2},   {Type::kQ2_0, 64, 18, 2, 0, 1, 2},
    {Type::kInt4, 64, 34, 4, 0, 1, 1},
    {Type::kInt4Rows, 32, 21, 4, 0, 0, 0, 1},
    {Type::kU4_32, 32, 21, 4, 0, 1, 4, 1},   {Type::kU4_64, 64, 37, 4, 0, 1, 4, 1},   {Type::kU4_128, 128, 69, 4, 0, 1, 4, 1},
    {Type::kU8_32, 32, 38, 8, 0, 1, 4, 2},   {Type::kU8_64, 64, 70, 8, 0, 1, 4, 2},   {Type::kU8_128, 128, 134, 8, 0, 1, 4, 2},
    {Type::kE4M3_32, 32, 36, 8, 0, 1, 4, 0}, {Type::kE4M3_64, 64, 68, 8, 0, 1, 4, 0}, {Type::kE4M3_128, 128, 132, 8, 0, 1, 4, 0},
    {Type::kE5M2_32, 32, 36, 8, 0, 1, 4, 0}, {Type::kE5M2_64, 64, 68, 8, 0, 1, 4, 0}, {Type::kE5M2_128, 128, 132, 8, 0, 1, 4, 0},
};

uint16_t u16(const uint8_t* p) {
  uint16_t out;
  std::memcpy(&out, p, 2);
  return out;
}

// Types that codebook_formats.cpp reads.
bool is_codebook_type(Type type) {
  switch (type) {
    case Type::kIQ1_S:
    case Type::kIQ1_M:
    case Type::kIQ2_XXS:
    case Type::kIQ2_XS:
    case Type::kIQ2_S:
    case Type::kIQ3_XXS:
    case Type::kIQ3_S:
    case Type::kTQ1_0:
    case Type::kTQ2_0:
    case Type::kQ1_0:
    case Type::kQ2_0:
      return true;
    default:
      return false;
  }
}

// 16 bytes: low nibbles are the first 16 values, high nibbles the next 16.
void read_nibbles(const uint8_t* packed, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = packed[i] & 15;
    codes[i + 16] = packed[i] >> 4;
  }
}

// 128 bytes, 256 values: 32 bytes hold 64 values, low nibbles first.
void read_nibbles_256(const uint8_t* packed, uint8_t* codes) {
  for (int chunk = 0; chunk < 4; ++chunk) {
    for (int i = 0; i < 32; ++i) {
      codes[64 * chunk + i] = packed[32 * chunk + i] & 15;
      codes[64 * chunk + 32 + i] = packed[32 * chunk + i] >> 4;
    }
  }
}

// 32 bytes, 256 values: bit g of byte i belongs to value 32 g + i.
void or_high_bits_256(const uint8_t* bits, int shift, uint8_t* codes) {
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 32; ++i) codes[32 * g + i] |= static_cast<uint8_t>(((bits[i] >> g) & 1) << shift);
  }
}

void or_high_bits_32(const uint8_t* bits, uint8_t* codes) {
  for (int i = 0; i < 32; i += 8) {  // eight codes at a time: a copy of the byte for each, of which it keeps one bit
    const uint64_t kept = (bits[i / 8] * 0x0101010101010101u) & 0x8040201008040201u;
    const uint64_t ones = (kept + 0x7F7F7F7F7F7F7F7Fu) & 0x8080808080808080u;
    uint64_t eight;
    std::memcpy(&eight, codes + i, 8);
    eight |= ones >> 3;
    std::memcpy(codes + i, &eight, 8);
  }
}

// The twelve bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima.
void read_k_scales(const uint8_t* s, uint16_t scales[8][2]) {
  for (int g = 0; g < 4; ++g) {
    scales[g][0] = s[g] & 63;
    scales[g][1] = s[g + 4] & 63;
    scales[g + 4][0] = static_cast<uint16_t>((s[g + 8] & 15) | ((s[g] >> 2) & 0x30));
    scales[g + 4][1] = static_cast<uint16_t>((s[g + 8] >> 4) | ((s[g + 4] >> 2) & 0x30));
  }
}

void read_q2_k(const uint8_t* p, Block& b) {
  for (int i = 0; i < 16; ++i) b.scales[i / 2][i % 2] = p[i];
  read_pairs_256(p + 16, b.codes);
  b.heads[0] = u16(p + 80);
  b.heads[1] = u16(p + 82);
}

void read_q3_k(const uint8_t* p, Block& b) {
  read_pairs_256(p + 32, b.codes);
  or_high_bits_256(p, 2, b.codes);
  const uint8_t* s = p + 96;
  for (int i = 0; i < 16; ++i) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    const int high = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
    b.scales[i / 2][i % 2] = static_cast<uint8_t>((low | (high << 4)) - 32);
  }
  b.heads[0] = u16(p + 108);
}

void read_q6_k(const uint8_t* p, Block& b) {
  for (int chunk = 0; chunk < 2; ++chunk) {
    for (int i = 0; i < 64; ++i) {
      b.codes[128 * chunk + i] = p[64 * chunk + i] & 15;
      b.codes[128 * chunk + 64 + i] = p[64 * chunk + i] >> 4;
    }
  }
  uint8_t high[256];
  read_pairs_256(p + 128, high);
  for (int i = 0; i < 256; ++i) b.codes[i] |= static_cast<uint8_t>(high[i] << 4);
  for (int i = 0; i < 16; ++i) b.scales[i / 2][i % 2] = p[192 + i];
  b.heads[0] = u16(p + 208);
}

void read_iq4_xs(const uint8_t* p, Block& b) {
  b.heads[0] = u16(p);
  const uint16_t high = u16(p + 2);
  for (int g = 0; g < 8; ++g) {
    const int low = (p[4 + g / 2] >> (4 * (g % 2))) & 15;
    b.scales[g][0] = static_cast<uint8_t>((low | (((high >> (2 * g)) & 3) << 4)) - 32);
    read_nibbles(p + 8 + 16 * g, b.codes + 32 * g);
  }
}

void read_nvfp4(const uint8_t* p, Block& b) {
  for (int sub = 0; sub < 4; ++sub) {
    b.scales[sub / 2][sub % 2] = p[sub];
    for (int i = 0; i < 8; ++i) {
      b.codes[16 * sub + i] = p[4 + 8 * sub + i] & 15;
      b.codes[16 * sub + 8 + i] = p[4 + 8 * sub + i] >> 4;
    }
  }
}

// A block of a grouped type: scale, zero point, codes.
void read_grouped(const Format& format, const uint8_t* p, Block& b) {
  std::memcpy(&b.scale, p, 4);
  b.zero = format.zero_bytes == 2 ? u16(p + 4) : format.zero_bytes == 1 ? p[4] : uint16_t{0};
  p += 4 + format.zero_bytes;
  if (format.code_bits == 8) {
    std::memcpy(b.codes, p, static_cast<size_t>(format.block_elements));
  } else {
    for (int i = 0; i < format.block_elements; i += 32) read_nibbles(p + i / 2, b.codes + i);
  }
}

// How the codes of a group become values: out = scale[half] * (code - zero or table[code]) + minimum[half].
struct GroupMeaning {
  float scale[2];
  float minimum[2];
  const int8_t* table;
  int zero;
  bool has_minimum;
};

void both(float (&pair)[2], float value) { pair[0] = pair[1] = value; }

// Of IQ1 to IQ3, TQ, Q1_0 and Q2_0. Products with a half, a quarter or an eighth are exact.
GroupMeaning codebook_meaning(const Format& f, const Block& b, int g) {
  GroupMeaning m{{0, 0}, {0, 0}, nullptr, 0, false};
  const float d = f16_to_f32(b.heads[0]);
  const uint16_t* s = b.scales[g];
  switch (f.type) {
    case Type::kTQ1_0:
    case Type::kTQ2_0:
    case Type::kQ2_0:
      both(m.scale, d), m.zero = 1;
      break;
    case Type::kQ1_0:
      both(m.scale, d), m.table = kSigns;
      break;
    case Type::kIQ1_S:
      both(m.scale, d * static_cast<float>(s[0] & 127) * 0.125f), m.table = kIq1Values;
      break;
    case Type::kIQ2_XXS:
      both(m.scale, d * s[0] * 0.125f), m.table = kIq2Values;
      break;
    case Type::kIQ3_XXS:
      both(m.scale, d * s[0] * 0.25f), m.table = kIq3Values;
      break;
    case Type::kIQ3_S:
      both(m.scale, d * s[0]), m.table = kOddValues;
      break;
    default:
      for (int h = 0; h < 2; ++h) m.scale[h] = d * static_cast<float>(2 * ((s[0] >> (4 * h)) & 15) + 1) * 0.125f;
      m.table = f.type == Type::kIQ1_M ? kIq1Values : kIq2Values;
  }
  return m;
}

GroupMeaning meaning(const Format& f, const Block& b, int g) {
  GroupMeaning m{{0, 0}, {0, 0}, nullptr, 0, false};
  if (is_codebook_type(f.type)) return codebook_meaning(f, b, g);
  const uint16_t* s = b.scales[g];
  const float d = f.n_heads > 0 ? f16_to_f32(b.heads[0]) : f.scale_bytes == 2 ? f16_to_f32(s[0]) : 0.0f;
  const float dmin = f.n_heads > 1 ? f16_to_f32(b.heads[1]) : 0.0f;
  if (f.is_grouped()) {
    both(m.scale, b.scale);
    m.zero = f.zero_bytes == 2 ? static_cast<int>(f16_to_f32(b.zero)) : b.zero;
    return m;
  }
  switch (f.type) {
    case Type::kQ4_0:
      both(m.scale, d), m.zero = 8;
      break;
    case Type::kQ5_0:
      both(m.scale, d), m.zero = 16;
      break;
    case Type::kQ8_0:
      both(m.scale, d), m.zero = 128;
      break;
    case Type::kIQ4_NL:
      both(m.scale, d), m.table = kIq4Values;
      break;
    case Type::kQ4_1:
    case Type::kQ5_1:
      both(m.scale, d), both(m.minimum, f16_to_f32(s[1])), m.has_minimum = true;
      break;
    case Type::kQ4_K:
    case Type::kQ5_K:
      both(m.scale, d * s[0]), both(m.minimum, -(dmin * s[1])), m.has_minimum = true;
      break;
    case Type::kIQ4_XS:
      both(m.scale, d * static_cast<int8_t>(s[0])), m.table = kIq4Values;
      break;
    case Type::kMXFP4:
      both(m.scale, mxfp4_scale(static_cast<uint8_t>(s[0]))), m.table = kFp4Values;
      break;
    default:
      m.has_minimum = f.type == Type::kQ2_K;
      m.zero = f.type == Type::kQ6_K ? 32 : f.type == Type::kQ3_K ? 4 : 0;
      m.table = f.type == Type::kNVFP4 ? kFp4Values : nullptr;
      for (int h = 0; h < 2; ++h) {
        if (f.type == Type::kQ2_K) m.scale[h] = d * (s[h] & 15), m.minimum[h] = -(dmin * (s[h] >> 4));
        if (f.type == Type::kQ3_K || f.type == Type::kQ6_K) m.scale[h] = d * static_cast<int8_t>(s[h]);
        if (f.type == Type::kNVFP4) m.scale[h] = nvfp4_scale(static_cast<uint8_t>(s[h]));
      }
  }
  return m;
}

}  // namespace

const Format* find_format(int ggml_id) {
  for (const Format& f : kFormats) {
    if (static_cast<int>(f.type) == ggml_id) return &f;
  }
  return nullptr;
}

Codebook codebook_of(Type type) {
  switch (type) {
    case Type::kIQ1_S:
    case Type::kIQ1_M:
      return {2048, 8, 2};
    case Type::kIQ2_XXS:
      return {256, 8, 2};
    case Type::kIQ2_XS:
      return {512, 8, 2};
    case Type::kIQ2_S:
      return {1024, 8, 2};
    case Type::kIQ3_XXS:
      return {256, 4, 7};
    case Type::kIQ3_S:
      return {512, 4, 7};
    default:
      return {};
  }
}

void read_pairs_256(const uint8_t* packed, uint8_t* codes) {
  for (int chunk = 0; chunk < 2; ++chunk) {
    for (int part = 0; part < 4; ++part) {
      for (int i = 0; i < 32; ++i) codes[128 * chunk + 32 * part + i] = (packed[32 * chunk + i] >> (2 * part)) & 3;
    }
  }
}

void read_block(const Format& format, const uint8_t* p, const uint8_t* codebook, Block& b) {
  if (format.is_grouped() || format.type == Type::kInt4Rows) return read_grouped(format, p, b);
  if (is_codebook_type(format.type)) return read_codebook_block(format, p, codebook, b);
  switch (format.type) {
    case Type::kQ4_0:
    case Type::kIQ4_NL:
      b.scales[0][0] = u16(p), read_nibbles(p + 2, b.codes);
      break;
    case Type::kQ4_1:
      b.scales[0][0] = u16(p), b.scales[0][1] = u16(p + 2), read_nibbles(p + 4, b.codes);
      break;
    case Type::kQ5_0:
      b.scales[0][0] = u16(p), read_nibbles(p + 6, b.codes), or_high_bits_32(p + 2, b.codes);
      break;
    case Type::kQ5_1:
      b.scales[0][0] = u16(p), b.scales[0][1] = u16(p + 2), read_nibbles(p + 8, b.codes), or_high_bits_32(p + 4, b.codes);
      break;
    case Type::kQ8_0:
      b.scales[0][0] = u16(p);
      for (int i = 0; i < 32; ++i) b.codes[i] = p[2 + i] ^ 0x80;
      break;
    case Type::kQ4_K:
    case Type::kQ5_K:
      b.heads[0] = u16(p), b.heads[1] = u16(p + 2), read_k_scales(p + 4, b.scales);
      read_nibbles_256(p + (format.type == Type::kQ4_K ? 16 : 48), b.codes);
      if (format.type == Type::kQ5_K) or_high_bits_256(p + 16, 4, b.codes);
      break;
    case Type::kQ2_K:
      read_q2_k(p, b);
      break;
    case Type::kQ3_K:
      read_q3_k(p, b);
      break;
    case Type::kQ6_K:
      read_q6_k(p, b);
      break;
    case Type::kIQ4_XS:
      read_iq4_xs(p, b);
      break;
    case Type::kMXFP4:
      b.scales[0][0] = p[0], read_nibbles(p + 1, b.codes);
      break;
    case Type::kNVFP4:
      read_nvfp4(p, b);
      break;
    default:
      break;
  }
}

bool has_finite_scales(const Format& format, const Block& b) {
  const auto is_finite = [](uint16_t half) { return (half & 0x7C00) != 0x7C00; };
  if (format.is_grouped()) return std::isfinite(b.scale);
  for (int i = 0; i < format.n_heads; ++i) {
    if (!is_finite(b.heads[i])) return false;
  }
  for (int i = 0; format.scale_bytes == 2 && i < format.n_scales; ++i) {
    if (!is_finite(b.scales[0][i])) return false;
  }
  return true;
}

void dequantise_row(const Format& format, const uint8_t* stored, const uint8_t* codebook, int64_t n, float* out) {
  if (format.type == Type::kF32) {
    std::memcpy(out, stored, static_cast<size_t>(n) * 4);
    return;
  }
  if (format.is_float()) {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = format.type == Type::kF16 ? f16_to_f32(u16(stored + 2 * i)) : bf16_to_f32(u16(stored + 2 * i));
    }
    return;
  }
  Block block;
  for (int64_t k = 0; k < n; k += format.block_elements, stored += format.block_bytes) {
    read_block(format, stored, codebook, block);
    if (format.type == Type::kInt4Rows) {
      const int multiplier = block.zero & 15, zero = block.zero >> 4;
      for (int i = 0; i < 32; ++i) out[k + i] = block.scale * static_cast<float>(multiplier * (block.codes[i] - zero));
      continue;
    }
    if (format.is_float8()) {
      const auto value = format.type < Type::kE5M2_32 ? e4m3_to_f32 : e5m2_to_f32;
      for (int i = 0; i < format.block_elements; ++i) out[k + i] = block.scale * value(block.codes[i]);
      continue;
    }
    for (int i = 0; i < format.block_elements; i += 16) {
      const GroupMeaning m = meaning(format, block, i / 32);
      const int half = (i / 16) % 2;
      for (int j = i; j < i + 16; ++j) {
        const int value = m.table != nullptr ? m.table[block.codes[j]] : block.codes[j] - m.zero;
        const float scaled = m.scale[half] * static_cast<float>(value);
        out[k + j] = m.has_minimum ? scaled + m.minimum[half] : scaled;
      }
    }
  }
}

float e4m3_to_f32(uint8_t byte) {
  if ((byte & 0x7F) == 0x7F) return f32_from_bits(0x7FC00000u);
  return f16_to_f32(static_cast<uint16_t>((byte & 0x80) << 8 | (byte & 0x7F) << 7)) * 256.0f;
}

float e5m2_to_f32(uint8_t byte) { return f16_to_f32(static_cast<uint16_t>(byte << 8)); }

float mxfp4_scale(uint8_t byte) {
  return f32_from_bits(byte < 2 ? 0x00200000u << byte : static_cast<uint32_t>(byte - 1) << 23);
}

float nvfp4_scale(uint8_t byte) {
  if (byte == 0x7F) return 0.0f;
  // The seven low bits, moved into the float32 fields, are too small by 2^119; exact for subnormals too.
  return f32_from_bits(static_cast<uint32_t>(byte & 0x7F) << 20) * 0x1p119f;
}

}  // namespace samovar
