// Choosing a token from each row of logits [S, V]. The definition in NumPy is samovar/kernels/reference_sample.py.
//
// Scores, in float32, each step rounded once:
//   x = logit; -inf where the mask's bit is 0; x += bias; for ids seen: x = x > 0 ? x / repetition : x * repetition;
//   for ids seen `count` > 0 times in the answer: x -= presence + frequency * count.
// temperature 0: the largest score, the lower id among equals.
// Otherwise weights in double: w = e^((x - max x) * min(1 / temperature, 1e300)), rounded to a multiple of 2^-34. Sums of
// them are exact in any order (hence V <= 2^19). e^y without fused operations: y = n ln 2 + r, Taylor terms to r^8 (within
// 3e-10); the same bits everywhere, so that no mathematical library can change an answer that is replayed.
// Order: without top-k and top-p, ids ascending; else descending score, the lower id first among equals. Kept of the top_k
// first ones (0: all): those where the sum of weights before is below top_p * the sum of all of them (one rounding), and
// the weight is above 0 and at least min_p.
// The draw: u = the first of four 64-bit outputs of Philox4x64-10 (Salmon et al., 2011), its upper 53 bits / 2^53, with key
// {seed, 0} and counter {position + 1, 0, 0, 0}: what numpy.random.Philox(key=seed, counter=position) gives first. Chosen is
// the first kept id at which the running sum of kept weights exceeds min(u * their sum, their sum - 2^-34).
//
// A row's result depends on that row alone, not on threads or instruction set.
#pragma once

#include <cstdint>

namespace samovar {

inline constexpr int64_t kSampleBlock = 1024;
inline constexpr int64_t kMostSampled = 1 << 19;  // logits in a row
inline constexpr int64_t kNothingAllowed = -1, kNotANumber = -2;  // in place of an id

// Arrays of S rows; `seen` and `bias` lists are laid end to end, those of row s from starts[s] to starts[s + 1].
struct SampleView {
  int64_t n_rows, n_vocabulary;
  const double *temperature, *top_p, *min_p;
  const int64_t* top_k;
  const float *repetition, *presence, *frequency;
  const uint64_t *seeds, *positions;
  const int64_t *seen_starts, *seen_ids, *seen_counts;
  const int64_t *bias_starts, *bias_ids;
  const float* bias_values;
  const uint32_t* mask;  // [S, ceil(V / 32)], bit set = allowed; nullptr: no mask
};

}  // namespace samovar
