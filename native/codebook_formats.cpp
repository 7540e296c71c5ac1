// Blocks of the GGUF types whose codes come out of codebooks (IQ1 to IQ3), and of those with one to three values (TQ, Q1_0, Q2_0).
// Source: ggml's reference implementation, whose values these are; layouts of the stored blocks as its `gguf` package has them.
#include <cstring>

#include "formats.h"

namespace samovar {
namespace {

constexpr int kEights = 32;  // runs of 8 values in a block of 256

template <class T>
T number(const uint8_t* p) {
  T out;
  std::memcpy(&out, p, sizeof out);
  return out;
}

// Eight codes, and with bit `shift` those set whose bit of `signs` is: a copy of the byte for each, of which it keeps one bit.
uint64_t with_signs(uint64_t codes, uint8_t signs, int shift) {
  const uint64_t kept = (signs * 0x0101010101010101u) & 0x8040201008040201u;
  const uint64_t ones = (kept + 0x7F7F7F7F7F7F7F7Fu) & 0x8080808080808080u;
  return codes | (ones >> (7 - shift));
}

// Seven signs and an eighth that makes their number even.
uint8_t with_parity(uint32_t seven) {
  return static_cast<uint8_t>((seven & 127) | (static_cast<uint32_t>(__builtin_parity(seven & 127)) << 7));
}

uint64_t eight_of(const uint8_t* codebook, int index) { return number<uint64_t>(codebook + 8 * index); }
uint64_t eight_of(const uint8_t* codebook, int first, int second) {
  return number<uint32_t>(codebook + 4 * first) | static_cast<uint64_t>(number<uint32_t>(codebook + 4 * second)) << 32;
}

void put(Block& b, int at, uint64_t codes) { std::memcpy(b.codes + 8 * at, &codes, 8); }

uint16_t odd(uint32_t scale) { return static_cast<uint16_t>(2 * scale + 1); }

void read_iq2_xxs(const uint8_t* p, const uint8_t* codebook, Block& b) {
  for (int g = 0; g < 8; ++g) {
    const uint8_t* index = p + 2 + 8 * g;
    const auto rest = number<uint32_t>(index + 4);
    for (int i = 0; i < 4; ++i) put(b, 4 * g + i, with_signs(eight_of(codebook, index[i]), with_parity(rest >> (7 * i)), 2));
    b.scales[g][0] = odd(rest >> 28);
  }
}

void read_iq2_xs(const uint8_t* p, const uint8_t* codebook, Block& b) {
  for (int i = 0; i < kEights; ++i) {
    const auto both = number<uint16_t>(p + 2 + 2 * i);
    put(b, i, with_signs(eight_of(codebook, both & 511), with_parity(both >> 9), 2));
  }
  for (int g = 0; g < 8; ++g) b.scales[g][0] = p[66 + g];
}

void read_iq2_s(const uint8_t* p, const uint8_t* codebook, Block& b) {
  const uint8_t *low = p + 2, *signs = p + 34, *high = p + 66;
  for (int i = 0; i < kEights; ++i) {
    put(b, i, with_signs(eight_of(codebook, low[i] | ((high[i / 4] >> (2 * (i % 4))) & 3) << 8), signs[i], 2));
  }
  for (int g = 0; g < 8; ++g) b.scales[g][0] = p[74 + g];
}

void read_iq3_xxs(const uint8_t* p, const uint8_t* codebook, Block& b) {
  for (int g = 0; g < 8; ++g) {
    const uint8_t* index = p + 2 + 8 * g;
    const auto rest = number<uint32_t>(p + 66 + 4 * g);
    for (int i = 0; i < 4; ++i) {
      put(b, 4 * g + i, with_signs(eight_of(codebook, index[2 * i], index[2 * i + 1]), with_parity(rest >> (7 * i)), 3));
    }
    b.scales[g][0] = odd(rest >> 28);
  }
}

void read_iq3_s(const uint8_t* p, const uint8_t* codebook, Block& b) {
  const uint8_t *low = p + 2, *high = p + 66, *signs = p + 74;
  for (int i = 0; i < kEights; ++i) {
    const int bits = high[i / 4] >> (2 * (i % 4));
    put(b, i, with_signs(eight_of(codebook, low[2 * i] | (bits & 1) << 8, low[2 * i + 1] | (bits & 2) << 7), signs[i], 3));
  }
  for (int g = 0; g < 8; ++g) b.scales[g][0] = odd((p[106 + g / 2] >> (4 * (g % 2))) & 15);
}

constexpr uint64_t kAllLow = 0x0404040404040404u;  // bit 2 of each of eight codes: a shift down

void read_iq1_s(const uint8_t* p, const uint8_t* codebook, Block& b) {
  for (int g = 0; g < 8; ++g) {
    const uint8_t* low = p + 2 + 4 * g;
    const auto high = number<uint16_t>(p + 34 + 2 * g);
    const uint64_t shift = high & 0x8000 ? kAllLow : 0;
    for (int i = 0; i < 4; ++i) put(b, 4 * g + i, eight_of(codebook, low[i] | ((high >> (3 * i)) & 7) << 8) | shift);
    b.scales[g][0] = static_cast<uint16_t>(odd((high >> 12) & 7) | (high & 0x8000) >> 8);
  }
}

void read_iq1_m(const uint8_t* p, const uint8_t* codebook, Block& b) {
  const uint8_t *high = p + 32, *scales = p + 48;
  uint16_t d = 0;
  for (int i = 0; i < 4; ++i) d = static_cast<uint16_t>(d | (number<uint16_t>(scales + 2 * i) >> 12) << (4 * i));
  b.heads[0] = d;
  for (int g = 0; g < 8; ++g) {
    const int bits = number<uint16_t>(scales + 2 * (g / 2)) >> (6 * (g % 2));
    b.scales[g][0] = static_cast<uint16_t>((bits & 7) | ((bits >> 3) & 7) << 4);
    b.scales[g][1] = 0;
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * g + i, more = high[at / 2] >> (4 * (at % 2));
      put(b, at, eight_of(codebook, p[at] | (more & 7) << 8) | (more & 8 ? kAllLow : 0));
      b.scales[g][1] |= static_cast<uint16_t>((more & 8) >> 3 << i);
    }
  }
}

// Digits to the base of 3, five (or at the end four) to a byte, as a fraction of 256: the uppermost comes first.
void read_tq1_0(const uint8_t* p, Block& b) {
  uint8_t* out = b.codes;
  const auto read = [&](const uint8_t* bytes, int n, int digits) {
    for (int digit = 0, power = 1; digit < digits; ++digit, power *= 3) {
      for (int i = 0; i < n; ++i) *out++ = static_cast<uint8_t>(static_cast<uint8_t>(bytes[i] * power) * 3 >> 8);
    }
  };
  read(p, 32, 5), read(p + 32, 16, 5), read(p + 48, 4, 4);
}

// Values in order, two bits each, or one.
template <int kBits>
void read_in_order(const uint8_t* p, int n, Block& b) {
  constexpr int kEach = 8 / kBits;
  for (int i = 0; i < n; ++i) b.codes[i] = (p[i / kEach] >> (kBits * (i % kEach))) & ((1 << kBits) - 1);
}

}  // namespace

void read_codebook_block(const Format& format, const uint8_t* p, const uint8_t* codebook, Block& b) {
  b.heads[0] = number<uint16_t>(p + (format.type == Type::kTQ1_0 ? 52 : format.type == Type::kTQ2_0 ? 64 : 0));
  switch (format.type) {
    case Type::kIQ2_XXS:
      return read_iq2_xxs(p, codebook, b);
    case Type::kIQ2_XS:
      return read_iq2_xs(p, codebook, b);
    case Type::kIQ2_S:
      return read_iq2_s(p, codebook, b);
    case Type::kIQ3_XXS:
      return read_iq3_xxs(p, codebook, b);
    case Type::kIQ3_S:
      return read_iq3_s(p, codebook, b);
    case Type::kIQ1_S:
      return read_iq1_s(p, codebook, b);
    case Type::kIQ1_M:
      return read_iq1_m(p, codebook, b);
    case Type::kTQ1_0:
      return read_tq1_0(p, b);
    case Type::kTQ2_0:
      return read_pairs_256(p, b.codes);
    case Type::kQ1_0:
      b.scales[0][0] = b.heads[0];
      return read_in_order<1>(p + 2, 128, b);
    default:
      b.scales[0][0] = b.heads[0];
      return read_in_order<2>(p + 2, 64, b);
  }
}

}  // namespace samovar
