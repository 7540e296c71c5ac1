#include "amx_check.h"

#include <cstring>
#include <vector>

namespace samovar {
namespace {

constexpr int64_t kRows = 49, kOut = 40, kIn = 256;

class Bytes {  // a linear congruential generator (Knuth's constants) and 64-byte aligned room
 public:
  uint8_t* take(int64_t n, bool are_halves) {
    rooms_.emplace_back(static_cast<size_t>(n + 64));
    uint8_t* p = rooms_.back().data();
    p += -reinterpret_cast<uintptr_t>(p) & 63;
    for (int64_t i = 0; i < n; ++i) p[i] = next();
    for (int64_t i = 1; are_halves && i < n; i += 2) p[i] = (p[i] & 0x83) | 0x20;  // float16 from 2^-7 to 2^-6
    return p;
  }
  uint8_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint8_t>(state_ >> 56);
  }

 private:
  uint64_t state_ = 1;
  std::vector<std::vector<uint8_t>> rooms_;
};

std::vector<float> product(const Kernels& kernels, const WeightView& w, const std::vector<float>& x, Bytes& bytes) {
  uint8_t* tiles = bytes.take(tile_bytes(kRows, kIn), false);
  uint8_t* scratch = bytes.take(panel_bytes(kIn), false);
  std::vector<float> out(kRows * kOut);
  const bool is_int4 = w.format->is_int4();
  (is_int4 ? kernels.quantise_whole_rows : kernels.quantise_rows)(x.data(), kRows, kIn, 0, kRows, tiles);
  const auto linear = is_int4 ? kernels.int4_linear : kernels.quant_linear;
  linear(w, tiles, kRows, 0, kRows, 0, n_row_groups(kOut), out.data(), scratch);
  return out;
}

}  // namespace

bool amx_agrees(const Kernels& amx, const Kernels& vectors) {
  Bytes bytes;
  std::vector<float> x(kRows * kIn);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = (static_cast<float>(bytes.next()) - 127.5f) * (i % 97 == 0 ? 1.0f : 0.0078125f);
  }
  const int64_t groups = n_row_groups(kOut) * n_groups(kIn);
  const std::vector<float> row_scales(kOut + kRowGroup, 0.5f);
  for (const Type type : {Type::kQ4_0, Type::kQ8_0, Type::kQ4_K, Type::kQ2_K, Type::kInt4}) {
    const Format& f = *find_format(static_cast<int>(type));
    const WeightView w{&f,
                       kOut,
                       kIn,
                       bytes.take(groups * f.payload_bytes(), false),
                       bytes.take(groups * f.head_bytes(), true),
                       bytes.take(groups * f.scales_bytes(), f.scale_bytes == 2),
                       row_scales.data(),
                       nullptr};
    const std::vector<float> a = product(amx, w, x, bytes), b = product(vectors, w, x, bytes);
    if (std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

}  // namespace samovar
