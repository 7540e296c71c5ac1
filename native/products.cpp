#include "products.h"

#include <algorithm>
#include <vector>

#include "memory.h"

namespace samovar {
namespace {

constexpr int64_t kItemBytes = 256 << 10;   // weights of one item in decode: long runs suit the prefetchers, many items balance
constexpr int64_t kBlockBytes = 512 << 10;  // input rows of one item in prefill: they stay in the second-level cache

// One weight's share of a call: a grid of (block of rows) x (run of row groups).
struct Grid {
  const Task* task;
  int64_t block_rows, run_groups, n_blocks, n_runs, first_item;
};

Grid plan(const Task& task, int n_threads, int64_t first_item) {
  const WeightView& w = task.product.weight;
  const int64_t n_rows = task.rows->n_rows;
  const int64_t row_bytes = w.format->takes_float_rows() ? w.n_in * 4 : w.format->is_int4() ? w.n_in : n_groups(w.n_in) * kTileGroupBytes;
  const int64_t most_rows = std::max<int64_t>(32, kBlockBytes / row_bytes / kMaxTileRows * kMaxTileRows);
  const int64_t block = (ceil_div(n_rows, ceil_div(n_rows, most_rows)) + kMaxTileRows - 1) / kMaxTileRows * kMaxTileRows;  // blocks of nearly one size
  const int64_t groups = n_row_groups(w.n_out);
  const int64_t group_bytes = w.n_in * kRowGroup * w.format->block_bytes / w.format->block_elements;
  const int64_t for_balance = std::max<int64_t>(1, groups / (2 * n_threads));
  const int64_t run =
      n_rows > 8 ? std::min<int64_t>(for_balance, 8) : std::min(for_balance, std::max<int64_t>(1, kItemBytes / group_bytes));
  return {&task, block, run, ceil_div(n_rows, block), ceil_div(groups, run), first_item};
}

// The addends of the outputs [first, last) x [column, column_end).
void add_to(const Product& p, int64_t first, int64_t last, int64_t column, int64_t column_end) {
  const int64_t n_out = p.weight.n_out;
  for (int64_t t = first; t < last; ++t) {
    float* out = p.out + t * n_out;
    if (p.bias != nullptr) {
      for (int64_t i = column; i < column_end; ++i) out[i] += p.bias[i];
    }
    if (p.residual != nullptr) {
      for (int64_t i = column; i < column_end; ++i) out[i] += p.residual[t * n_out + i];
    }
  }
}

}  // namespace

void multiply(const Kernels& kernels, ThreadPool& pool, std::span<const Task> tasks) {
  std::vector<Grid> grids;
  grids.reserve(tasks.size());
  int64_t n_items = 0;
  for (const Task& task : tasks) {
    grids.push_back(plan(task, pool.n_threads(), n_items));
    n_items += grids.back().n_blocks * grids.back().n_runs;
  }
  pool.for_each(n_items, [&](int64_t item) {
    const auto after = std::upper_bound(grids.begin(), grids.end(), item, [](int64_t i, const Grid& g) { return i < g.first_item; });
    const Grid& grid = *(after - 1);
    const Product& product = grid.task->product;
    const RoundedRows& rows = *grid.task->rows;
    const WeightView& w = product.weight;
    const int64_t block = (item - grid.first_item) / grid.n_runs, run = (item - grid.first_item) % grid.n_runs;
    const int64_t first = block * grid.block_rows, last = std::min(rows.n_rows, first + grid.block_rows);
    const int64_t group_first = run * grid.run_groups;
    const int64_t group_last = std::min(n_row_groups(w.n_out), group_first + grid.run_groups);
    const auto linear = w.format->takes_float_rows() ? kernels.float_linear : w.format->is_int4() ? kernels.int4_linear : kernels.quant_linear;
    uint8_t* panel = w.format->takes_float_rows() ? nullptr : scratch(Slot::kWork, panel_bytes(w.n_in));
    linear(w, rows.of(*w.format), rows.n_rows, first, last, group_first, group_last, product.out, panel);
    add_to(product, first, last, group_first * kRowGroup, std::min(w.n_out, group_last * kRowGroup));
  });
}

}  // namespace samovar
