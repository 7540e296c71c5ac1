// What each GGUF type looks like, stored and packed.
//
// Packed form of a quantised [n_out, n_in] weight, for 16 output rows (a row group) at a time, rows padded with zeros:
//   payload  per group of 32 k: the codes in step order; step j holds k = 4 j .. 4 j + 3 of row 0, then of row 1, ... (64
//   bytes).
//            4-bit plane: 4 x 64 bytes, step j in the low and step j + 4 in the high nibbles. 1-bit plane: 64 bytes, bit j of
//            each byte is step j's. 2-bit plane: 2 x 64 bytes, steps 0 to 3 and 4 to 7. 8-bit: 8 x 64 bytes.
//            A code of 3, 5 or 6 bits is its 2- or 4-bit plane, then the plane of its high bits.
//   heads    per 256 k (K-types only): `n_heads` x 16 float16.
//   scales   per group of 32 k: `n_scales` x 16 entries of `scale_bytes`.
// All row groups' payloads come first, then all heads, then all scales; row group by row group, k ascending.
// A weight is scale * (code - zero) [+ minimum] or scale * table[code], exactly as the type's definition has it.
// Grouped types (weights of Hugging Face folders, `samovar.formats.grouped` stores them): a block of 32, 64 or 128 values is a
// float32 scale, a zero point (U4: a byte, U8: a float16; E4M3 and E5M2 have none) and the codes: nibbles as in Q4_0, or a byte each.
// A weight is scale * (code - zero), or scale * the 8-bit float. Their packed scales come once for each block: 16 float32, then 16
// zero points. Payload of the 8-bit floats: [row group][n_in][16] bytes, since they are multiplied as floats.
// Codebook types (IQ1 to IQ3): a codebook's entry is 8 or 4 magnitudes as codes of 2 or 3 bits, which are packed value by value, with
// the sign as the bit above them (IQ2: 3 bits, IQ3: 4 bits). Scales: the odd multiplier of a group as a byte; of IQ2_XS and IQ2_S two
// nibbles s, of the multipliers 2 s + 1, the first half's in the low one. IQ1: a value is an eighth of 8 (code - 1) + 1, or - 1 where
// it is shifted down; IQ1_S has that in bit 7 of the multiplier, IQ1_M (nibbles as IQ2_S) in a byte of its own, a bit for 8 k.
// TQ1_0, TQ2_0 have no scales but the head; Q1_0 and Q2_0 one float16 for each block.
// Int4Rows: a block of 32 is the row's float32 scale, a byte multiplier + 16 zero code, and nibbles as in Q4_0; packed as int4.
// int4 (`samovar.kernels.int4` defines it): 4-bit codes, one byte a row and group for scales, multiplier + 16 zero code, and behind
// all scales a float32 for each row: a weight is that times multiplier * (code - zero code), an int8.
#pragma once

#include <cstdint>

namespace samovar {

enum class Type : int {  // numbers are those of GGUF
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
  kInt4Rows = 999,  // int4 as files keep it, see samovar.formats.int4_rows
  kInt4 = 1000,  // Samovar's own from here on; never stored in a GGUF file
  kU4_32 = 1001,
  kU4_64 = 1002,
  kU4_128 = 1003,
  kU8_32 = 1004,
  kU8_64 = 1005,
  kU8_128 = 1006,
  kE4M3_32 = 1007,
  kE4M3_64 = 1008,
  kE4M3_128 = 1009,
  kE5M2_32 = 1010,
  kE5M2_64 = 1011,
  kE5M2_128 = 1012,
};

// Counts the changes of the packed form, in formats.h or pack.cpp: packed weights on disk are used by builds of the same number only.
inline constexpr int kPackedLayout = 1;

inline constexpr int64_t kGroup = 32;      // k values that share scales, and one activation scale
inline constexpr int64_t kRowGroup = 16;   // output rows packed together
inline constexpr int64_t kInt4Unit = 64;   // an int4 row's length is a multiple of it
inline constexpr int64_t kMostInt4 = 65536;  // values of an int4 row: 127 * 255 of each fit in 32 bits
inline constexpr int64_t kHeadGroups = 8;  // groups of a 256-value block

// Whether a block of the type has one entry of `scales` for all its groups.
constexpr bool has_block_scales(Type type) { return type > Type::kInt4 || type == Type::kQ1_0 || type == Type::kQ2_0; }

struct Format {
  Type type;
  int block_elements, block_bytes;
  int code_bits;
  int n_heads, n_scales, scale_bytes;
  int zero_bytes = 0;  // of a grouped type's zero point

  bool is_float() const { return block_elements == 1; }
  bool is_int4() const { return type == Type::kInt4; }
  bool is_grouped() const { return type > Type::kInt4; }
  bool is_float8() const { return type >= Type::kE4M3_32; }
  bool takes_float_rows() const { return is_float() || is_float8(); }
  int64_t scaled_values() const { return has_block_scales(type) ? block_elements : 32; }  // of a row, that share the entries of `scales`
  int64_t payload_bytes() const { return code_bits * (kGroup * kRowGroup / 8); }
  int64_t head_bytes() const { return n_heads * kRowGroup * 2; }
  int64_t scales_bytes() const { return kRowGroup * (static_cast<int64_t>(n_scales) * scale_bytes + zero_bytes); }
};

// The format of a GGUF type, or nullptr.
const Format* find_format(int ggml_id);

// One block of a row, taken apart. Codes are in k order; scales as stored (float16 bits, or small integers).
struct Block {
  uint8_t codes[256];
  uint16_t heads[2];
  uint16_t scales[8][2];  // [group][field]
  float scale;            // of a grouped type
  uint16_t zero;          // its zero point as stored: a byte, or float16 bits
};

// A codebook: entries of codes, 8 (of at most 2) or 4 (of at most 7) bytes each.
struct Codebook {
  int n_entries = 0, entry_codes = 0, largest_code = 0;  // all 0 where a type has none
  int64_t size() const { return static_cast<int64_t>(n_entries) * entry_codes; }
};
inline constexpr int kCodebookTypes = 32;  // all that have one are below
Codebook codebook_of(Type type);

// Take one stored block apart; `format` is not a float one. `codebook` is that of the type, where it has one. Codes of IQ1 have
// bit 2 set where they are shifted down, which their packed form has in `scales`.
void read_block(const Format& format, const uint8_t* stored, const uint8_t* codebook, Block& block);

// Whether the floats among a block's scales are finite.
bool has_finite_scales(const Format& format, const Block& block);

// Write the `n` values of a stored row as float32, exactly as the type defines them. Any format.
void dequantise_row(const Format& format, const uint8_t* stored, const uint8_t* codebook, int64_t n, float* out);

// read_block of IQ1 to IQ3, TQ, Q1_0 and Q2_0.
void read_codebook_block(const Format& format, const uint8_t* stored, const uint8_t* codebook, Block& block);
// 64 bytes, 256 values: 32 bytes hold 128 values, two bits from the low end up.
void read_pairs_256(const uint8_t* packed, uint8_t* codes);

// Codebooks, in values and (for kernels) in bytes.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
inline constexpr int8_t kFp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};  // E2M1, doubled

// By magnitude, and then by sign in the bit above; IQ1: by code and shift, times 8.
inline constexpr int8_t kIq2Values[16] = {8, 25, 43, 0, -8, -25, -43, 0};
inline constexpr int8_t kIq3Values[16] = {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62};
inline constexpr int8_t kOddValues[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
inline constexpr int8_t kIq1Values[16] = {-7, 1, 9, 0, -9, -1, 7, 0};
inline constexpr int8_t kSigns[2] = {-1, 1};

// The values of 8-bit floats (Micikevicius et al., 2022, arXiv 2209.05433; E4M3 is the variant without infinities).
float e4m3_to_f32(uint8_t byte);
float e5m2_to_f32(uint8_t byte);

// The scales of MXFP4 (E8M0) and NVFP4 (unsigned E4M3), halved as the doubled codebook wants it.
float mxfp4_scale(uint8_t byte);
float nvfp4_scale(uint8_t byte);

}  // namespace samovar
