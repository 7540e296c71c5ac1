// The passes of sampling over whole rows, in blocks of 1024 logits.
#include "isa_kernels.h"
#include "sample_weight.h"

namespace samovar::SAMOVAR_ISA {

namespace {

constexpr int kLanes = 16;

// A whole block to read: the row itself, or a copy filled up with -inf where the row ends earlier.
const float* whole_block(const float* x, int64_t n, float* copy) {
  if (n >= kSampleBlock) return x;
  for (int64_t i = 0; i < kSampleBlock; ++i) copy[i] = i < n ? x[i] : -__builtin_inff();
  return copy;
}

}  // namespace

bool lane_maxima(const float* x, int64_t n, float* maxima) {
  float copy[kSampleBlock];
  x = whole_block(x, n, copy);
  F32x16 top = load(x);
  I32x16 bits = as_i32(abs(top));
  for (int64_t i = kLanes; i < kSampleBlock; i += kLanes) {
    const F32x16 v = load(x + i);
    top = max(v, top);
    bits = max(bits, as_i32(abs(v)));
  }
  store(maxima, top);
  return max_lanes(bits) <= 0x7f800000;  // a NaN's bits are above those of infinity
}

double weigh(const float* x, int64_t n, float top, double inverse_temperature, double floor, double* weights) {
  float copy[kSampleBlock];
  x = whole_block(x, n, copy);
  for (int64_t i = 0; i < kSampleBlock; ++i) weights[i] = sample_weight(x[i], top, inverse_temperature, floor);
  double sums[kLanes] = {};
  for (int64_t i = 0; i < kSampleBlock; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += weights[i + lane];
  }
  for (int lane = 1; lane < kLanes; ++lane) sums[0] += sums[lane];
  return sums[0];
}

}  // namespace samovar::SAMOVAR_ISA
