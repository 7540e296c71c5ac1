#include "ops.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace samovar {

void Engine::take_codebook(const Format& format, std::span<const uint8_t> codes) {
  std::vector<uint8_t>& kept = codebooks_[static_cast<size_t>(format.type)];
  if (kept.empty()) kept.assign(codes.begin(), codes.end());  // another thread may be reading the one that is there
}

const uint8_t* Engine::codebook(const Format& format) const {
  return codebook_of(format.type).size() == 0 ? nullptr : codebooks_[static_cast<size_t>(format.type)].data();
}

void Engine::embed(const Format& format, const uint8_t* table, int64_t n_in, const int64_t* ids, int64_t n_ids, float scale, float* out) {
  const int64_t row_bytes = n_in / format.block_elements * format.block_bytes;
  const int64_t per_item = std::max<int64_t>(1, kInlineElements / n_in);
  pool_.for_each(ceil_div(n_ids, per_item), [&](int64_t item) {
    for (int64_t t = item * per_item; t < std::min(n_ids, (item + 1) * per_item); ++t) {
      float* row = out + t * n_in;
      dequantise_row(format, table + ids[t] * row_bytes, codebook(format), n_in, row);
      if (scale == 1.0f) continue;  // a copy keeps the bits of what is no number
      for (int64_t i = 0; i < n_in; ++i) row[i] *= scale;
    }
  });
}

namespace {

// The blocks of Type::kInt4Rows.
void quantise_int4_row(const Kernels& kernels, const float* x, const float* importance, int64_t n_in, uint8_t* out) {
  uint8_t *codes = scratch(Slot::kWork, n_in + n_groups(n_in)), *bytes = codes + n_in;
  float scale;
  kernels.quantise_int4(x, importance, n_in, codes, bytes, &scale);
  for (int64_t g = 0; g < n_groups(n_in); ++g, codes += kGroup, out += 21) {
    std::memcpy(out, &scale, 4);
    out[4] = bytes[g];
    for (int i = 0; i < 16; ++i) out[5 + i] = static_cast<uint8_t>(codes[i] | codes[i + 16] << 4);
  }
}

}  // namespace

bool Engine::quantise(const Format& format, const float* x, const float* importance, int64_t n_rows, int64_t n_in, uint8_t* out) {
  const int64_t row_bytes = n_in / format.block_elements * format.block_bytes;
  if (format.type == Type::kInt4Rows) {
    pool_.for_each(n_rows, [&](int64_t row) { quantise_int4_row(kernels_, x + row * n_in, importance, n_in, out + row * row_bytes); });
    return true;
  }
  if (!kernels_.quantise_blocks(format, x, importance, 0, out)) return false;
  pool_.for_each(n_rows, [&](int64_t row) {
    kernels_.quantise_blocks(format, x + row * n_in, importance, n_in, out + row * row_bytes);
  });
  return true;
}

void Engine::linears(const Rows& rows, int64_t n_rows, int64_t n_in, std::span<const Product> products) {
  const auto has_order = [](const Product& p) { return p.weight.order != nullptr; };
  if (std::none_of(products.begin(), products.end(), has_order)) return unordered_linears(rows, n_rows, n_in, products);
  // The rows are made once, then brought into each such weight's order in turn.
  uint8_t* memory = scratch(Slot::kOrdered, 2 * n_rows * n_in * 4);
  float *made = reinterpret_cast<float*>(memory), *ordered = made + n_rows * n_in;
  if (rows.kind == Rows::kNormed) rms_norm(rows.x, rows.y, rows.eps, n_rows, n_in, made);
  if (rows.kind == Rows::kGated) silu_gate(rows.x, rows.y, n_rows * n_in, made);
  if (rows.kind == Rows::kGeluGated) gelu_gate(rows.x, rows.y, n_rows * n_in, made);
  const float* x = rows.kind == Rows::kPlain ? rows.x : made;
  for (const Product& product : products) {
    const int32_t* order = product.weight.order;
    if (order != nullptr) {
      pool_.for_each(n_rows, [&](int64_t row) { in_order(x + row * n_in, order, n_in, ordered + row * n_in); });
    }
    unordered_linears({Rows::kPlain, order == nullptr ? x : ordered, nullptr, 0.0f}, n_rows, n_in, {&product, 1});
  }
}

void Engine::unordered_linears(const Rows& rows, int64_t n_rows, int64_t n_in, std::span<const Product> products) {
  RowForms forms;
  for (const Product& p : products) forms.add(*p.weight.format);
  const int64_t rounded_bytes = RoundedRows::bytes(forms, n_rows, n_in);
  const bool is_plain = rows.kind == Rows::kPlain;
  uint8_t* memory = scratch(Slot::kCall, rounded_bytes + (is_plain ? 0 : n_rows * n_in * 4));
  const RoundedRows rounded(forms, n_rows, n_in, memory);
  float* made = reinterpret_cast<float*>(memory + rounded_bytes);
  const int64_t step = rows_per_item(n_in);
  pool_.for_each(ceil_div(n_rows, step), [&](int64_t item) {
    const int64_t first = item * step, last = std::min(n_rows, first + step), at = first * n_in;
    if (rows.kind == Rows::kNormed) kernels_.rms_norm(rows.x + at, rows.y, rows.eps, last - first, n_in, made + at);
    if (rows.kind == Rows::kGated) kernels_.silu_gate(rows.x + at, rows.y + at, (last - first) * n_in, made + at);
    if (rows.kind == Rows::kGeluGated) kernels_.gelu_gate(rows.x + at, rows.y + at, (last - first) * n_in, made + at);
    rounded.fill(kernels_, is_plain ? rows.x : made, first, last);
  });
  std::vector<Task> tasks;
  tasks.reserve(products.size());
  for (const Product& p : products) tasks.push_back({p, &rounded});
  multiply(kernels_, pool_, tasks);
}

void Engine::rms_norm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t n_in, float* out) {
  const int64_t per_item = std::max<int64_t>(1, kInlineElements / n_in);
  pool_.for_each(ceil_div(n_rows, per_item), [&](int64_t item) {
    const int64_t first = item * per_item, count = std::min(per_item, n_rows - first);
    kernels_.rms_norm(x + first * n_in, weight, eps, count, n_in, out + first * n_in);
  });
}

void Engine::rope(const float* x, const float* cos, const float* sin, int64_t n_tokens, int64_t n_heads, int64_t d_head,
                  int64_t n_pairs, float* out) {
  const int64_t d_row = n_heads * d_head, per_item = std::max<int64_t>(1, kInlineElements / d_row);
  pool_.for_each(ceil_div(n_tokens, per_item), [&](int64_t item) {
    const int64_t t = item * per_item, count = std::min(per_item, n_tokens - t);
    kernels_.rope(x + t * d_row, cos + t * n_pairs, sin + t * n_pairs, count, n_heads, d_head, n_pairs, out + t * d_row);
  });
}

void Engine::gate(void (*kernel)(const float*, const float*, int64_t, float*), const float* gate, const float* up, int64_t n,
                  float* out) {
  pool_.for_each(ceil_div(n, kInlineElements), [&](int64_t item) {
    const int64_t first = item * kInlineElements;
    kernel(gate + first, up + first, std::min(kInlineElements, n - first), out + first);
  });
}

void Engine::silu_gate(const float* x, const float* up, int64_t n, float* out) { gate(kernels_.silu_gate, x, up, n, out); }

void Engine::gelu_gate(const float* x, const float* up, int64_t n, float* out) { gate(kernels_.gelu_gate, x, up, n, out); }

void Engine::sigmoid_gate(const float* gate, const float* x, int64_t n_gates, int64_t n_each, float* out) {
  const int64_t per_item = std::max<int64_t>(1, kInlineElements / n_each);
  pool_.for_each(ceil_div(n_gates, per_item), [&](int64_t item) {
    const int64_t first = item * per_item, at = first * n_each;
    kernels_.sigmoid_gate(gate + first, x + at, std::min(per_item, n_gates - first), n_each, out + at);
  });
}

void Engine::convolve(const float* x, const float* taps, int64_t n_taps, int64_t n_channels, const SpanView& spans,
                      const StateView& states, float* out) {
  constexpr int64_t kChannels = 512;  // of an item
  const int64_t n_blocks = ceil_div(n_channels, kChannels);
  pool_.for_each(spans.n_sequences * n_blocks, [&](int64_t item) {
    const int64_t s = item / n_blocks, first = item % n_blocks * kChannels, at = spans.row_starts[s] * n_channels;
    kernels_.convolve(x + at, taps, n_taps, n_channels, first, std::min(n_channels, first + kChannels),
                      spans.row_starts[s + 1] - spans.row_starts[s], spans.positions[s] == 0,
                      states.inputs + states.slots[s] * (n_taps - 1) * n_channels, out + at);
  });
}

void Engine::delta_rule(const DeltaView& rows, const SpanView& spans, const StateView& states) {
  const int64_t n_blocks = ceil_div(rows.d_value, kMemoryColumns), n_items = rows.n_heads * n_blocks;
  const int64_t n_channels = 2 * rows.n_key_heads * rows.d_key + rows.n_heads * rows.d_value;
  pool_.for_each(spans.n_sequences * n_items, [&](int64_t item) {
    const int64_t s = item / n_items, head = item % n_items / n_blocks, at = spans.row_starts[s];
    DeltaView mine = rows;
    mine.x_TM += at * n_channels;
    mine.gates_TM += at * 2 * rows.n_heads;
    mine.out_THU += at * rows.n_heads * rows.d_value;
    kernels_.delta_rule(mine, head, item % n_blocks * kMemoryColumns, spans.row_starts[s + 1] - at, spans.positions[s] == 0,
                        states.memories + (states.slots[s] * rows.n_heads + head) * rows.d_key * rows.d_value);
  });
}

void Engine::accumulate(const float* x, int64_t n, float* out) {
  pool_.for_each(ceil_div(n, kInlineElements), [&](int64_t item) {
    const int64_t first = item * kInlineElements, last = std::min(n, first + kInlineElements);
    for (int64_t i = first; i < last; ++i) out[i] += x[i];
  });
}

void Engine::write_kv(const float* k, const float* v, const KvView& kv, const int64_t* slots, int64_t n_tokens) {
  // Split by heads: neighbouring tokens share cache lines of a head's keys.
  const int64_t per_item = std::max<int64_t>(1, kInlineElements / (n_tokens * kv.d_head));
  pool_.for_each(ceil_div(kv.n_kv_heads, per_item), [&](int64_t item) {
    kernels_.write_kv(k, v, kv, slots, n_tokens, item * per_item, std::min(kv.n_kv_heads, (item + 1) * per_item));
  });
}

namespace {

// Some lanes of one sequence and kv head, with all partitions they can see.
struct AttendItem {
  int64_t sequence, kv_head, first_lane, last_lane, first_partition, n_partitions;
};

std::vector<AttendItem> attend_items(const SpanView& spans, int64_t n_kv_heads, int64_t n_group, int64_t window) {
  std::vector<AttendItem> items;
  for (int64_t s = 0; s < spans.n_sequences; ++s) {
    const int64_t n_lanes = (spans.row_starts[s + 1] - spans.row_starts[s]) * n_group;
    for (int64_t g = 0; g < n_kv_heads; ++g) {
      for (int64_t lane = 0; lane < n_lanes; lane += kItemLanes) {
        const int64_t last = std::min(n_lanes, lane + kItemLanes);
        const int64_t n_keys = spans.positions[s] + (last - 1) / n_group + 1;
        const int64_t n_passed = std::max<int64_t>(0, spans.positions[s] + lane / n_group + 1 - window);
        const int64_t first_partition = n_passed / kPartitionKeys;
        items.push_back({s, g, lane, last, first_partition, ceil_div(n_keys, kPartitionKeys) - first_partition});
      }
    }
  }
  return items;
}

}  // namespace

void Engine::attention(const float* q, int64_t n_heads, const KvView& kv, const SpanView& spans, float scale,
                       int64_t window, float* out) {
  const int64_t n_group = n_heads / kv.n_kv_heads, d_head = kv.d_head, stride = state_floats(d_head);
  const std::vector<AttendItem> items = attend_items(spans, kv.n_kv_heads, n_group, window);
  const auto view = [&](const AttendItem& item) {
    const int64_t offset = spans.row_starts[item.sequence] * n_heads * d_head;
    return AttendView{q + offset,
                      out + offset,
                      n_heads,
                      n_group,
                      item.kv_head,
                      spans.positions[item.sequence],
                      spans.page_tables + item.sequence * spans.table_width,
                      scale,
                      window,
                      kv};
  };
  const auto attend = [&](const AttendItem& item, int64_t part_first, int64_t part_last, float* states) {
    kernels_.start_states(item.last_lane - item.first_lane, d_head, states);
    kernels_.attend(view(item), item.first_lane, item.last_lane, item.first_partition + part_first,
                    item.first_partition + part_last, states, scratch(Slot::kWork, attend_scratch_bytes(d_head)));
  };
  int64_t n_pieces = 0, n_states = 0;
  std::vector<int64_t> first_piece, first_state;
  for (const AttendItem& item : items) {
    first_piece.push_back(n_pieces);
    first_state.push_back(n_states);
    n_pieces += item.n_partitions;
    n_states += item.n_partitions * (item.last_lane - item.first_lane);
  }
  const auto n_items = static_cast<int64_t>(items.size());
  const bool is_split = pool_.n_threads() > 1 && n_items < 8 * pool_.n_threads() && n_pieces > n_items;
  if (!is_split) {
    pool_.for_each(n_items, [&](int64_t i) {
      const AttendItem& item =
          items[static_cast<size_t>(n_items - 1 - i)];  // the longest come last in a prompt: start with them
      float* states = reinterpret_cast<float*>(scratch(Slot::kStates, kItemLanes * stride * 4));
      attend(item, 0, item.n_partitions, states);
      kernels_.finish_states(view(item), item.first_lane, item.last_lane, states);
    });
    return;
  }
  // Few items: each partition is a piece of its own, and the states are joined afterwards in the order of the unsplit path.
  float* states = reinterpret_cast<float*>(scratch(Slot::kCall, n_states * stride * 4));
  const auto states_of = [&](size_t i, int64_t partition) {
    return states + (first_state[i] + partition * (items[i].last_lane - items[i].first_lane)) * stride;
  };
  pool_.for_each(n_pieces, [&](int64_t piece) {
    const auto i =
        static_cast<size_t>(std::upper_bound(first_piece.begin(), first_piece.end(), piece) - first_piece.begin() - 1);
    const int64_t partition = piece - first_piece[i];
    attend(items[i], partition, partition + 1, states_of(i, partition));
  });
  pool_.for_each(n_items, [&](int64_t item) {
    const auto i = static_cast<size_t>(item);
    const int64_t n_lanes = items[i].last_lane - items[i].first_lane;
    for (int64_t p = 1; p < items[i].n_partitions; ++p)
      kernels_.merge_states(n_lanes, d_head, states_of(i, 0), states_of(i, p));
    kernels_.finish_states(view(items[i]), items[i].first_lane, items[i].last_lane, states_of(i, 0));
  });
}

}  // namespace samovar
