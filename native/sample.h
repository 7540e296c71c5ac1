// Choosing a token from each row of logits [S, V]. The definition in NumPy is samovar/kernels/reference_sample.py.
//
// Scores, in float32, each step rounded once:
//   x = logit; -inf where the mask's bit is 0; x += bias; for ids seen: x = x > 0 ? x / repetition : x * repetition;
//   for ids seen `count` > 0 times in the answer: x -= presence + frequency * count.
// temperature 0: the largest score, the lower id among equals.
// Otherwise weights in double: w = e^((x - max x) * min(1 / temperature, 1e300)), and 0 below max(min_p, 1e-300). e^y without
// fused operations: y = n ln 2 + r, Taylor terms to r^9 (within 1e-11); the same bits everywhere, so that no mathematical library can
// change an answer that is replayed.
// Without top-k and top-p: all ids with w > 0, ids ascending; sums of blocks of 1024 ids (16 lanes ascending, then halves
// added down to one), and of the blocks in order; the draw finds its block, then walks along it.
// Else: ids by descending score, the lower first among equals; the top_k first ones; of these the longest run in which the
// sum of weights before each is below top_p times the weight of all (with top-k: of the k; weights below min_p counted), and
// each weight reaches min_p. Sums run in that order; without top-k the weight of all is the sum of blocks described above.
// The draw: u * kept weight, u = the first of four 64-bit outputs of Philox4x64-10 (Salmon et al., 2011) / 2^64, to 53 bits,
// key {seed, 0}, counter {position + 1, 0, 0, 0}: what numpy.random.Philox(key=seed, counter=position) gives first. Chosen is
// the first id at which the running sum exceeds it, or the last kept.
//
// A row's result depends on that row alone, not on threads or instruction set.
#pragma once

#include <cstdint>

namespace samovar {

inline constexpr int64_t kSampleBlock = 1024;
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
