// What this machine's memory and integer units can do at most; limits.h says how they are asked.
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {

// All bytes combined into one, so that none may be left unread. n is a multiple of 256.
uint8_t read_all(const uint8_t* p, int64_t n) {
  constexpr int64_t kAhead = 4096;  // as the linear kernels prefetch
  U8x64 sum[4] = {load_codes(p), load_codes(p + 64), load_codes(p + 128), load_codes(p + 192)};
  for (int64_t i = 256; i < n; i += 256) {
    for (int j = 0; j < 4; ++j) {
      prefetch(p + i + 64 * j + kAhead);
      sum[j] = bit_or(sum[j], load_codes(p + i + 64 * j));
    }
  }
  uint8_t bytes[64];
  store_codes(bytes, bit_or(bit_or(sum[0], sum[1]), bit_or(sum[2], sum[3])));
  for (int i = 1; i < 64; ++i) bytes[0] |= bytes[i];
  return bytes[0];
}

// n_rounds times 16 independent dots of 64 bytes, as a linear tile does them: 4 vectors of codes [256] times 4 rows of x [16].
int32_t dot_many(const uint8_t* codes, const int8_t* x, int64_t n_rounds) {
  I32x16 acc[4][4];
#pragma GCC unroll 4
  for (auto& row : acc) {
#pragma GCC unroll 4
    for (I32x16& a : row) a = set1_i32(0);
  }
  for (int64_t round = 0; round < n_rounds; ++round) {
    asm volatile("" : "+r"(codes), "+r"(x));  // or the compiler would load and multiply once
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const U8x64 u = load_codes(codes + 64 * k);
#pragma GCC unroll 4
      for (int row = 0; row < 4; ++row) acc[k][row] = dot(acc[k][row], u, x + 4 * row);
    }
  }
  int32_t sum = 0;
#pragma GCC unroll 4
  for (const auto& row : acc) {
#pragma GCC unroll 4
    for (const I32x16& a : row) sum += sum_lanes(a);
  }
  return sum;
}

}  // namespace samovar::SAMOVAR_ISA
