// What this machine's memory and integer units can do at most; limits.h says how they are asked.
#include "isa_kernels.h"

namespace samovar::SAMOVAR_ISA {

// All bytes combined into one, so that none may be left unread. n is a multiple of 256. In as many runs, and as far ahead, as
// the linear kernels read a single row's weights.
uint8_t read_all(const uint8_t* p, int64_t n) {
  const int64_t run_bytes = n / static_cast<int64_t>(kRuns);
  U8x64 sum[4] = {load_codes(p), load_codes(p + 64), load_codes(p + 128), load_codes(p + 192)};
  for (int64_t i = 0; i < run_bytes; i += 256 / static_cast<int64_t>(kRuns)) {
    for (int j = 0; j < 4; ++j) {
      const uint8_t* at = p + j % static_cast<int>(kRuns) * run_bytes + i + j / static_cast<int>(kRuns) * 64;
      if constexpr (kPrefetchBytes > 0) prefetch(at + kPrefetchBytes);
      sum[j] = bit_or(sum[j], load_codes(at));
    }
  }
  uint8_t bytes[64];
  store_codes(bytes, bit_or(bit_or(sum[0], sum[1]), bit_or(sum[2], sum[3])));
  for (int i = 1; i < 64; ++i) bytes[0] |= bytes[i];
  return bytes[0];
}

// n_rounds times 16 independent dots of 64 bytes, as a linear tile does them: 4 vectors of codes [256] times 4 rows of x [16]. Codes
// are small.
int32_t dot_many(const uint8_t* codes, const int8_t* x, int64_t n_rounds) {
  constexpr int kSums = narrow_steps(15) > 1 ? 1 : 4;  // narrow sums of a row's steps go into one
  I32x16 acc[kSums][4];
#pragma GCC unroll 4
  for (auto& row : acc) {
#pragma GCC unroll 4
    for (I32x16& a : row) a = set1_i32(0);
  }
  for (int64_t round = 0; round < n_rounds; ++round) {
    asm volatile("" : "+r"(codes), "+r"(x));  // or the compiler would load and multiply once
    PairSums pairs[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const U8x64 u = load_codes(codes + 64 * k);
#pragma GCC unroll 4
      for (int row = 0; row < 4; ++row) {
        if constexpr (kSums > 1) {
          acc[k][row] = dot(acc[k][row], u, x + 4 * row);
        } else {
          const PairSums more = pair_sums(u, x + 4 * row);
          pairs[row] = k == 0 ? more : add(pairs[row], more);
        }
      }
    }
    if constexpr (kSums == 1) {
#pragma GCC unroll 4
      for (int row = 0; row < 4; ++row) acc[0][row] = add(acc[0][row], pairs[row]);
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
