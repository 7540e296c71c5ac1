#include "pack.h"

#include <atomic>
#include <cstring>

namespace samovar {
namespace {

// The codes of one group as 8 steps of 64 bytes, see formats.h.
void order_steps(const Block* blocks, int64_t group, uint8_t (&steps)[8][64]) {
  for (int row = 0; row < kRowGroup; ++row) {
    const uint8_t* codes = blocks[row].codes + group * kGroup;
    for (int step = 0; step < 8; ++step) std::memcpy(steps[step] + 4 * row, codes + 4 * step, 4);
  }
}

void write_plane_4(const uint8_t (&steps)[8][64], uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < 64; ++i) out[64 * j + i] = static_cast<uint8_t>((steps[j][i] & 15) | (steps[j + 4][i] << 4));
  }
}

// Bits kShift and up of each code, kBits of them, 8 / kBits steps to a run of 64 bytes.
template <int kShift, int kBits>
void write_bit_plane(const uint8_t (&steps)[8][64], uint8_t* out) {
  constexpr int kSteps = 8 / kBits, kMask = (1 << kBits) - 1;
  for (int run = 0; run < kBits; ++run) {
    for (int i = 0; i < 64; ++i) {
      int bits = 0;
      for (int j = 0; j < kSteps; ++j) bits |= ((steps[run * kSteps + j][i] >> kShift) & kMask) << (kBits * j);
      out[64 * run + i] = static_cast<uint8_t>(bits);
    }
  }
}

void write_codes(const Block* blocks, int64_t group, int code_bits, uint8_t* out) {
  uint8_t steps[8][64];
  order_steps(blocks, group, steps);
  if (code_bits == 8) {
    std::memcpy(out, steps, sizeof steps);
  } else if (code_bits == 1) {
    write_bit_plane<0, 1>(steps, out);
  } else if (code_bits >= 4) {
    write_plane_4(steps, out);
    if (code_bits == 5) write_bit_plane<4, 1>(steps, out + 256);
    if (code_bits == 6) write_bit_plane<4, 2>(steps, out + 256);
  } else {
    write_bit_plane<0, 2>(steps, out);
    if (code_bits == 3) write_bit_plane<2, 1>(steps, out + 128);
  }
}

void write_scales(const Block* blocks, int64_t group, const Format& f, uint8_t* out) {
  for (int field = 0; field < f.n_scales; ++field) {
    for (int64_t row = 0; row < kRowGroup; ++row, out += f.scale_bytes) {
      // Little-endian: the low byte of a small integer comes first.
      std::memcpy(out, &blocks[row].scales[group][field], static_cast<size_t>(f.scale_bytes));
    }
  }
}

// Scales and zero points of one block of each row.
void write_group_scales(const Block* blocks, int zero_bytes, uint8_t* out) {
  for (int row = 0; row < kRowGroup; ++row) {
    std::memcpy(out + 4 * row, &blocks[row].scale, 4);
    std::memcpy(out + 4 * kRowGroup + zero_bytes * row, &blocks[row].zero, static_cast<size_t>(zero_bytes));
  }
}

bool pack_float8_row_group(const WeightView& w, std::span<const uint8_t> stored, const uint8_t*, int64_t row_group) {
  const Format& f = *w.format;
  const int64_t n_blocks = w.n_in / f.block_elements, row_bytes = n_blocks * f.block_bytes, first_row = row_group * kRowGroup;
  auto* payload = const_cast<uint8_t*>(w.payload) + row_group * w.n_in * kRowGroup;
  auto* scales = const_cast<uint8_t*>(w.scales) + row_group * n_blocks * f.scales_bytes();
  Block blocks[kRowGroup];
  std::memset(static_cast<void*>(blocks), 0, sizeof blocks);
  bool is_finite = true;
  for (int64_t b = 0; b < n_blocks; ++b, payload += f.block_elements * kRowGroup, scales += f.scales_bytes()) {
    for (int64_t row = 0; row < kRowGroup && first_row + row < w.n_out; ++row) {
      read_block(f, stored.data() + (first_row + row) * row_bytes + b * f.block_bytes, nullptr, blocks[row]);
      is_finite &= has_finite_scales(f, blocks[row]);
      for (int64_t k = 0; k < f.block_elements; ++k) payload[k * kRowGroup + row] = blocks[row].codes[k];
    }
    write_group_scales(blocks, 0, scales);
  }
  return is_finite;
}

bool pack_row_group(const WeightView& w, std::span<const uint8_t> stored, const uint8_t* codebook, int64_t row_group) {
  const Format& f = *w.format;
  const int64_t n = n_groups(w.n_in), groups_per_block = f.block_elements / kGroup, n_blocks = w.n_in / f.block_elements;
  const int64_t row_bytes = n_blocks * f.block_bytes, first_row = row_group * kRowGroup;
  auto* payload = const_cast<uint8_t*>(w.payload) + row_group * n * f.payload_bytes();
  auto* heads = const_cast<uint8_t*>(w.heads) + row_group * (n / kHeadGroups) * f.head_bytes();
  auto* scales = const_cast<uint8_t*>(w.scales) + row_group * (w.n_in / f.scaled_values()) * f.scales_bytes();
  Block blocks[kRowGroup];
  std::memset(static_cast<void*>(blocks), 0, sizeof blocks);
  bool is_finite = true;
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (int64_t row = 0; row < kRowGroup && first_row + row < w.n_out; ++row) {
      read_block(f, stored.data() + (first_row + row) * row_bytes + b * f.block_bytes, codebook, blocks[row]);
      is_finite &= has_finite_scales(f, blocks[row]);
    }
    for (int field = 0; field < f.n_heads; ++field) {
      for (int64_t row = 0; row < kRowGroup; ++row) {
        std::memcpy(heads + b * f.head_bytes() + 2 * (field * kRowGroup + row), &blocks[row].heads[field], 2);
      }
    }
    if (f.is_grouped()) write_group_scales(blocks, f.zero_bytes, scales + b * f.scales_bytes());
    for (int64_t group = 0; group < groups_per_block; ++group) {
      const int64_t g = b * groups_per_block + group;
      write_codes(blocks, group, f.code_bits, payload + g * f.payload_bytes());
      const bool is_whole_block = has_block_scales(f.type);
      if (f.is_grouped() || (is_whole_block && group > 0)) continue;
      write_scales(blocks, group, f, scales + (is_whole_block ? b : g) * f.scales_bytes());
    }
  }
  return is_finite;
}

bool pack_float_row_group(const WeightView& w, std::span<const uint8_t> stored, const uint8_t*, int64_t row_group) {
  const int64_t size = w.format->block_bytes, first_row = row_group * kRowGroup;
  auto* out = const_cast<uint8_t*>(w.payload) + row_group * w.n_in * kRowGroup * size;
  for (int64_t row = 0; row < kRowGroup && first_row + row < w.n_out; ++row) {
    const uint8_t* source = stored.data() + (first_row + row) * w.n_in * size;
    for (int64_t k = 0; k < w.n_in; ++k) {
      std::memcpy(out + (k * kRowGroup + row) * size, source + k * size, static_cast<size_t>(size));
    }
  }
  return true;
}

int64_t aligned(int64_t n) { return (n + 63) / 64 * 64; }

// Bytes of one weight's payload, heads, scales and row scales.
int64_t payload_bytes(const WeightView& w) {
  const int64_t rows = n_row_groups(w.n_out);
  return w.format->is_float() ? rows * kRowGroup * w.n_in * w.format->block_bytes : rows * n_groups(w.n_in) * w.format->payload_bytes();
}

int64_t heads_bytes(const WeightView& w) { return n_row_groups(w.n_out) * (n_groups(w.n_in) / kHeadGroups) * w.format->head_bytes(); }

int64_t scales_bytes(const WeightView& w) {
  return n_row_groups(w.n_out) * (w.n_in / w.format->scaled_values()) * w.format->scales_bytes();
}

int64_t row_scales_bytes(const WeightView& w) { return w.format->is_int4() ? n_row_groups(w.n_out) * kRowGroup * 4 : 0; }

// Take the n groups of a row apart; whether its scale is finite.
bool copy_int4_row(const Format& format, const uint8_t* stored, int64_t n, uint8_t* codes, uint8_t* bytes, float* scale) {
  Block block;
  for (int64_t g = 0; g < n; ++g) {
    read_block(format, stored + g * format.block_bytes, nullptr, block);
    std::memcpy(codes + g * kGroup, block.codes, static_cast<size_t>(kGroup));
    bytes[g] = static_cast<uint8_t>(block.zero);
  }
  *scale = block.scale;
  return block.scale - block.scale == 0.0f;
}

bool pack_int4_row_group(const WeightView& w, const Format& format, std::span<const uint8_t> stored, const uint8_t* codebook,
                         int64_t row_group, const Kernels& kernels) {
  const int64_t n = n_groups(w.n_in), row_bytes = w.n_in / format.block_elements * format.block_bytes;
  uint8_t* work = scratch(Slot::kWork, w.n_in * (4 + kRowGroup) + n * kRowGroup);
  auto* row = reinterpret_cast<float*>(work);
  uint8_t *codes = work + 4 * w.n_in, *bytes = codes + kRowGroup * w.n_in;
  std::memset(codes, 0, static_cast<size_t>(kRowGroup * (w.n_in + n)));
  bool is_finite = true;
  for (int64_t r = 0; r < kRowGroup && row_group * kRowGroup + r < w.n_out; ++r) {
    const int64_t index = row_group * kRowGroup + r;
    auto* scale = const_cast<float*>(w.row_scales) + index;
    if (format.type == Type::kInt4Rows) {
      if (!copy_int4_row(format, stored.data() + index * row_bytes, n, codes + r * w.n_in, bytes + r * n, scale)) is_finite = false;
      continue;
    }
    dequantise_row(format, stored.data() + index * row_bytes, codebook, w.n_in, row);
    if (!kernels.quantise_int4(row, nullptr, w.n_in, codes + r * w.n_in, bytes + r * n, scale)) is_finite = false;
  }
  auto* payload = const_cast<uint8_t*>(w.payload) + row_group * n * w.format->payload_bytes();
  auto* scales = const_cast<uint8_t*>(w.scales) + row_group * n * kRowGroup;
  for (int64_t g = 0; g < n; ++g) {
    uint8_t steps[8][64];
    for (int64_t r = 0; r < kRowGroup; ++r) {
      for (int step = 0; step < 8; ++step) std::memcpy(steps[step] + 4 * r, codes + r * w.n_in + g * kGroup + 4 * step, 4);
      scales[g * kRowGroup + r] = bytes[r * n + g];
    }
    write_plane_4(steps, payload + g * w.format->payload_bytes());
  }
  return is_finite;
}

}  // namespace

PackedLinear::PackedLinear(const Format& format, int64_t n_out, int64_t n_in, int64_t n_stacked_, bool has_order_)
    : view{&format, n_out, n_in, nullptr, nullptr, nullptr, nullptr, nullptr},
      n_stacked(n_stacked_),
      has_order(has_order_),
      size_bytes(aligned(n_stacked * payload_bytes(view)) + aligned(n_stacked * heads_bytes(view)) +
                 aligned(n_stacked * scales_bytes(view)) + aligned(n_stacked * row_scales_bytes(view)) +
                 (has_order ? aligned(n_stacked * n_in * 4) : 0)) {}

void PackedLinear::adopt(const uint8_t* data) {
  view.heads = data + aligned(n_stacked * payload_bytes(view));
  view.scales = view.heads + aligned(n_stacked * heads_bytes(view));
  const uint8_t* row_scales = view.scales + aligned(n_stacked * scales_bytes(view));
  if (view.format->is_int4()) view.row_scales = reinterpret_cast<const float*>(row_scales);
  if (has_order) {
    view.order = reinterpret_cast<const int32_t*>(row_scales + aligned(n_stacked * row_scales_bytes(view)));
  }
  view.payload = data;
}

WeightView PackedLinear::member(int64_t index) const {
  WeightView w = view;
  w.payload += index * payload_bytes(view);
  w.heads += index * heads_bytes(view);
  w.scales += index * scales_bytes(view);
  if (w.row_scales != nullptr) w.row_scales += index * n_row_groups(view.n_out) * kRowGroup;
  if (w.order != nullptr) w.order += index * view.n_in;
  return w;
}

bool is_order(const int32_t* order, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (order[i] < 0 || order[i] >= n) return false;
  }
  return true;
}

namespace {

// Memory for `out` if it has none yet, and f(member's view, its stored rows, row group) for each row group of the members. Returns
// whether all calls do.
template <class Function>
bool fill(PackedLinear& out, const Members& members, Arena& arena, ThreadPool& pool, Function f) {
  if (!out.is_packed()) {
    out.memory = arena.take(out.size_bytes);
    out.adopt(out.memory.data);
  }
  for (int64_t i = members.first; out.has_order && i < members.first + members.count; ++i) {
    std::memcpy(const_cast<int32_t*>(out.member(i).order), members.order, static_cast<size_t>(out.view.n_in) * 4);
  }
  const int64_t rows = n_row_groups(out.view.n_out), n = members.count * rows;
  const size_t member_bytes = members.stored.size() / static_cast<size_t>(members.count);
  constexpr int64_t kRowGroupsPerItem = 4;
  std::atomic<bool> is_sound{true};
  pool.for_each((n + kRowGroupsPerItem - 1) / kRowGroupsPerItem, [&](int64_t item) {
    for (int64_t i = item * kRowGroupsPerItem; i < (item + 1) * kRowGroupsPerItem && i < n; ++i) {
      const auto stored = members.stored.subspan(static_cast<size_t>(i / rows) * member_bytes, member_bytes);
      if (!f(out.member(members.first + i / rows), stored, i % rows)) is_sound = false;
    }
  });
  return is_sound;
}

}  // namespace

bool pack(PackedLinear& out, const Members& members, Arena& arena, ThreadPool& pool) {
  const Format& format = *out.view.format;
  const auto pack_rows = format.is_float() ? pack_float_row_group : format.is_float8() ? pack_float8_row_group : pack_row_group;
  return fill(out, members, arena, pool, [&](const WeightView& w, std::span<const uint8_t> stored, int64_t row_group) {
    return pack_rows(w, stored, members.codebook, row_group);
  });
}

bool pack_int4(PackedLinear& out, const Format& format, const Members& members, const Kernels& kernels, Arena& arena,
               ThreadPool& pool) {
  return fill(out, members, arena, pool, [&](const WeightView& w, std::span<const uint8_t> stored, int64_t row_group) {
    return pack_int4_row_group(w, format, stored, members.codebook, row_group, kernels);
  });
}

}  // namespace samovar
