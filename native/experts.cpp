// A layer of experts: tokens sorted by expert, one product for each expert over its rows.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "ops.h"

namespace samovar {
namespace {

// Rows that are computed together, all of some experts: bounds the memory of a call, and keeps it near the cores.
constexpr int64_t kBatchRows = 1024;
constexpr int64_t kLeastColumns = 128;  // that are added up in one item

// (token, chosen) pairs in ascending order of experts, and of tokens within one; expert e has [starts[e], starts[e + 1]).
struct Pairs {
  std::vector<int64_t> starts;
  std::vector<int32_t> tokens;
  std::vector<float> weights;

  Pairs(const Chosen& chosen, int64_t n_rows, int64_t n_experts)
      : starts(static_cast<size_t>(n_experts) + 1), tokens(static_cast<size_t>(n_rows * chosen.n_chosen)), weights(tokens.size()) {
    for (size_t i = 0; i < tokens.size(); ++i) ++starts[static_cast<size_t>(chosen.ids[i]) + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto at = static_cast<size_t>(next[static_cast<size_t>(chosen.ids[i])]++);
      tokens[at] = static_cast<int32_t>(static_cast<int64_t>(i) / chosen.n_chosen);
      weights[at] = chosen.weights[i];
    }
  }
};

// One expert's rows of a batch: [first, first + n_rows) of the pairs, and its rows regrouped before each of the two products.
struct Part {
  int64_t expert, first;
  RoundedRows wide, narrow;
};

// A run of rows of a part that is rounded in one item.
struct Run {
  const Part* part;
  int64_t first, last;
};

std::vector<Run> runs_of(const std::vector<Part>& parts, int64_t n_in) {
  std::vector<Run> runs;
  const int64_t step = rows_per_item(n_in);
  for (const Part& part : parts) {
    for (int64_t row = 0; row < part.wide.n_rows; row += step) runs.push_back({&part, row, std::min(part.wide.n_rows, row + step)});
  }
  return runs;
}

}  // namespace

void Engine::route(const float* logits, int64_t n_rows, int64_t n_experts, int64_t n_chosen, bool is_renormalised, int32_t* ids,
                   float* weights) {
  const int64_t per_item = std::max<int64_t>(1, kInlineElements / 4 / n_experts);
  pool_.for_each(ceil_div(n_rows, per_item), [&](int64_t item) {
    for (int64_t t = item * per_item; t < std::min(n_rows, (item + 1) * per_item); ++t) {
      kernels_.route(logits + t * n_experts, n_experts, n_chosen, is_renormalised, ids + t * n_chosen, weights + t * n_chosen);
    }
  });
}

void Engine::experts(const float* x, int64_t n_rows, const ExpertsView& experts, const Chosen& chosen, const float* residual,
                     float* out) {
  const int64_t n_experts = experts.gate->n_stacked, d_model = experts.gate->view.n_in, d_ffn = experts.gate->view.n_out;
  const Pairs pairs(chosen, n_rows, n_experts);
  std::memcpy(out, residual, static_cast<size_t>(n_rows * d_model) * 4);
  RowForms wide, narrow;
  wide.add(*experts.gate->view.format);
  wide.add(*experts.up->view.format);
  narrow.add(*experts.down->view.format);
  const auto start = [&](int64_t expert) { return pairs.starts[static_cast<size_t>(expert)]; };
  for (int64_t expert = 0; expert < n_experts;) {
    const int64_t first = start(expert);
    int64_t end = expert + 1, n_bytes = 0;
    while (end < n_experts && start(end + 1) - first <= kBatchRows) ++end;
    const int64_t n = start(end) - first;
    for (int64_t e = expert; e < end; ++e) {
      const int64_t rows = start(e + 1) - start(e);
      n_bytes += RoundedRows::bytes(wide, rows, d_model) + RoundedRows::bytes(narrow, rows, d_ffn);
    }
    uint8_t* memory = scratch(Slot::kCall, n_bytes + n * (d_model + 2 * d_ffn) * 4);
    auto* rows_ND = reinterpret_cast<float*>(memory + n_bytes);  // inputs first, then outputs
    float *gate_NF = rows_ND + n * d_model, *up_NF = gate_NF + n * d_ffn;
    std::vector<Part> parts;
    for (; expert < end; ++expert) {
      const int64_t rows = start(expert + 1) - start(expert);
      if (rows == 0) continue;
      uint8_t* behind = memory + RoundedRows::bytes(wide, rows, d_model);
      parts.push_back({expert, start(expert) - first, RoundedRows(wide, rows, d_model, memory), RoundedRows(narrow, rows, d_ffn, behind)});
      memory = behind + RoundedRows::bytes(narrow, rows, d_ffn);
    }
    std::vector<Run> runs = runs_of(parts, d_model);
    pool_.for_each(static_cast<int64_t>(runs.size()), [&](int64_t item) {
      const auto& [part, from, to] = runs[static_cast<size_t>(item)];
      float* rows = rows_ND + part->first * d_model;
      for (int64_t row = from; row < to; ++row) {
        const int64_t token = pairs.tokens[static_cast<size_t>(first + part->first + row)];
        std::memcpy(rows + row * d_model, x + token * d_model, static_cast<size_t>(d_model) * 4);
      }
      part->wide.fill(kernels_, rows, from, to);
    });
    std::vector<Task> tasks;
    for (const Part& part : parts) {
      tasks.push_back({{experts.gate->member(part.expert), gate_NF + part.first * d_ffn, nullptr, nullptr}, &part.wide});
      tasks.push_back({{experts.up->member(part.expert), up_NF + part.first * d_ffn, nullptr, nullptr}, &part.wide});
    }
    multiply(tasks);
    runs = runs_of(parts, d_ffn);
    pool_.for_each(static_cast<int64_t>(runs.size()), [&](int64_t item) {
      const auto& [part, from, to] = runs[static_cast<size_t>(item)];
      float* gate = gate_NF + part->first * d_ffn;
      kernels_.silu_gate(gate + from * d_ffn, up_NF + (part->first + from) * d_ffn, (to - from) * d_ffn, gate + from * d_ffn);
      part->narrow.fill(kernels_, gate, from, to);
    });
    tasks.clear();
    for (const Part& part : parts) {
      tasks.push_back({{experts.down->member(part.expert), rows_ND + part.first * d_model, nullptr, nullptr}, &part.narrow});
    }
    multiply(tasks);
    // Split by columns, so that a token's experts are added in order.
    const int64_t columns = std::clamp(kInlineElements / std::max<int64_t>(1, n), kLeastColumns, std::max(kLeastColumns, d_model));
    pool_.for_each(ceil_div(d_model, columns), [&](int64_t item) {
      const int64_t from = item * columns, to = std::min(d_model, from + columns);
      for (int64_t i = 0; i < n; ++i) {
        const float weight = pairs.weights[static_cast<size_t>(first + i)];
        const float* row = rows_ND + i * d_model;
        float* sum = out + pairs.tokens[static_cast<size_t>(first + i)] * d_model;
        for (int64_t d = from; d < to; ++d) sum[d] += weight * row[d];
      }
    });
  }
}

}  // namespace samovar
