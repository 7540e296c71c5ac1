// A layer of experts: tokens sorted by expert, one product for each expert over its rows.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "ops.h"

namespace samovar {
namespace {

// Rows that are computed together, all of some experts: bounds the memory of a call, and keeps it near the cores.
constexpr int64_t kBatchRows = 512;
constexpr int64_t kLeastColumns = 128;  // that are added up in one item

// (token, chosen) pairs in ascending order of experts, and of tokens within one; those of expert e are [start(e), start(e + 1)).
class Pairs {
 public:
  Pairs(const Chosen& chosen, int64_t n_rows, int64_t n_experts)
      : starts_(static_cast<size_t>(n_experts) + 1), tokens_(static_cast<size_t>(n_rows * chosen.n_chosen)), weights_(tokens_.size()) {
    for (size_t i = 0; i < tokens_.size(); ++i) ++starts_[static_cast<size_t>(chosen.ids[i]) + 1];
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const auto at = static_cast<size_t>(next[static_cast<size_t>(chosen.ids[i])]++);
      tokens_[at] = static_cast<int64_t>(i) / chosen.n_chosen;
      weights_[at] = chosen.weights[i];
    }
  }
  int64_t start(int64_t expert) const { return starts_[static_cast<size_t>(expert)]; }
  int64_t token(int64_t pair) const { return tokens_[static_cast<size_t>(pair)]; }
  float weight(int64_t pair) const { return weights_[static_cast<size_t>(pair)]; }

 private:
  std::vector<int64_t> starts_, tokens_;
  std::vector<float> weights_;
};

// One expert's rows of a batch: [first, first + n_rows) of its pairs, and its rows regrouped before each product. Gate and up share
// theirs unless their columns have an order.
struct Part {
  int64_t first, n_rows;
  WeightView gate, up, down;
  RoundedRows gate_rows, up_rows, down_rows;
};

// A run of rows of a part that is rounded in one item.
struct Run {
  const Part* part;
  int64_t first, last;
};

// A call: what it computes, batch by batch.
class ExpertsCall {
 public:
  ExpertsCall(const Kernels& kernels, ThreadPool& pool, const ExpertsView& experts, const float* x, int64_t n_rows, const Pairs& pairs,
              float* out)
      : kernels_(kernels), pool_(pool), experts_(experts), x_(x), pairs_(pairs), out_(out), d_model_(experts.gate->view.n_in),
        d_ffn_(experts.gate->view.n_out), is_ordered_(experts.gate->has_order || experts.up->has_order) {
    wide_.add(*experts.gate->view.format);
    wide_.add(*experts.up->view.format);
    narrow_.add(*experts.down->view.format);
    if (!is_ordered_ && wide_.quantised && !wide_.int4 && !wide_.floats) round_once(n_rows);
  }

  // Add the outputs of the experts [begin, end) for the tokens that chose them.
  void add(int64_t begin, int64_t end) {
    lay_out(begin, end);
    round_inputs();
    std::vector<Task> tasks;
    for (const Part& part : parts_) {
      tasks.push_back({{part.gate, gate_NF_ + part.first * d_ffn_, nullptr, nullptr}, &part.gate_rows});
      tasks.push_back({{part.up, up_NF_ + part.first * d_ffn_, nullptr, nullptr}, is_ordered_ ? &part.up_rows : &part.gate_rows});
    }
    multiply(kernels_, pool_, tasks);
    round_gated();
    tasks.clear();
    for (const Part& part : parts_) {
      tasks.push_back({{part.down, rows_ND_ + part.first * d_model_, nullptr, nullptr}, &part.down_rows});
    }
    multiply(kernels_, pool_, tasks);
    add_outputs();
  }

 private:
  void lay_out(int64_t begin, int64_t end) {
    parts_.clear();
    first_ = pairs_.start(begin);
    n_ = pairs_.start(end) - first_;
    int64_t n_bytes = 0;
    for (int64_t e = begin; e < end; ++e) {
      const int64_t n_rows = pairs_.start(e + 1) - pairs_.start(e);
      if (n_rows == 0) continue;
      parts_.push_back({pairs_.start(e) - first_, n_rows, experts_.gate->member(e), experts_.up->member(e), experts_.down->member(e), {}, {}, {}});
      n_bytes += (is_ordered_ ? 2 : 1) * RoundedRows::bytes(wide_, n_rows, d_model_) + RoundedRows::bytes(narrow_, n_rows, d_ffn_);
    }
    uint8_t* memory = scratch(Slot::kCall, n_bytes + n_ * (d_model_ + 2 * d_ffn_) * 4);
    rows_ND_ = reinterpret_cast<float*>(memory + n_bytes);
    gate_NF_ = rows_ND_ + n_ * d_model_;
    up_NF_ = gate_NF_ + n_ * d_ffn_;
    const auto take = [&memory](const RowForms& forms, int64_t n_rows, int64_t n_in) {
      const RoundedRows rows(forms, n_rows, n_in, memory);
      memory += RoundedRows::bytes(forms, n_rows, n_in);
      return rows;
    };
    for (Part& part : parts_) {
      part.gate_rows = take(wide_, part.n_rows, d_model_);
      if (is_ordered_) part.up_rows = take(wide_, part.n_rows, d_model_);
      part.down_rows = take(narrow_, part.n_rows, d_ffn_);
    }
  }

  // f(part, first, last) for runs of rows of all parts.
  template <class Function>
  void for_each_run(int64_t n_in, Function f) {
    std::vector<Run> runs;
    const int64_t step = rows_per_item(n_in);
    for (const Part& part : parts_) {
      for (int64_t row = 0; row < part.n_rows; row += step) runs.push_back({&part, row, std::min(part.n_rows, row + step)});
    }
    pool_.for_each(static_cast<int64_t>(runs.size()), [&](int64_t item) {
      const Run& run = runs[static_cast<size_t>(item)];
      f(*run.part, run.first, run.last);
    });
  }

  // All rows of x, of which the experts' rows are copies.
  void round_once(int64_t n_rows) {
    rounded_ = RoundedRows(wide_, n_rows, d_model_, scratch(Slot::kOrdered, RoundedRows::bytes(wide_, n_rows, d_model_)));
    const int64_t step = rows_per_item(d_model_);
    pool_.for_each(ceil_div(n_rows, step), [&](int64_t item) {
      rounded_.fill(kernels_, x_, item * step, std::min(n_rows, (item + 1) * step));
    });
  }

  void round_inputs() {
    for_each_run(d_model_, [&](const Part& part, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        if (rounded_.quantised != nullptr) {
          const int64_t token = pairs_.token(first_ + part.first + row);
          kernels_.copy_row(rounded_.quantised, rounded_.n_rows, token, d_model_, part.gate_rows.quantised, part.n_rows, row);
          continue;
        }
        part.gate_rows.fill_row(kernels_, input(part, row, part.gate.order), row);
        if (is_ordered_) part.up_rows.fill_row(kernels_, input(part, row, part.up.order), row);
      }
    });
  }

  // A row of x, in the order of a weight's columns where it has one: then in the place of the part's row of output.
  const float* input(const Part& part, int64_t row, const int32_t* order) {
    const float* x = x_ + pairs_.token(first_ + part.first + row) * d_model_;
    if (order == nullptr) return x;
    float* to = rows_ND_ + (part.first + row) * d_model_;
    in_order(x, order, d_model_, to);
    return to;
  }

  void round_gated() {
    for_each_run(d_ffn_, [&](const Part& part, int64_t first, int64_t last) {
      float *gate = gate_NF_ + part.first * d_ffn_, *up = up_NF_ + part.first * d_ffn_;
      kernels_.silu_gate(gate + first * d_ffn_, up + first * d_ffn_, (last - first) * d_ffn_, gate + first * d_ffn_);
      for (int64_t row = first; part.down.order != nullptr && row < last; ++row) {
        in_order(gate + row * d_ffn_, part.down.order, d_ffn_, up + row * d_ffn_);
      }
      part.down_rows.fill(kernels_, part.down.order == nullptr ? gate : up, first, last);
    });
  }

  // Split by columns, so that a token's experts are added in order.
  void add_outputs() {
    const int64_t for_balance = d_model_ / (4 * pool_.n_threads()) / 16 * 16;
    const int64_t columns = std::max({kLeastColumns, for_balance, kInlineElements / std::max<int64_t>(1, n_)});
    pool_.for_each(ceil_div(d_model_, columns), [&](int64_t item) {
      const int64_t from = item * columns, to = std::min(d_model_, from + columns);
      for (int64_t i = 0; i < n_; ++i) {
        float* sum = out_ + pairs_.token(first_ + i) * d_model_ + from;
        kernels_.add_scaled(rows_ND_ + i * d_model_ + from, pairs_.weight(first_ + i), to - from, sum);
      }
    });
  }

  const Kernels& kernels_;
  ThreadPool& pool_;
  const ExpertsView& experts_;
  const float* x_;
  const Pairs& pairs_;
  float* out_;
  int64_t d_model_, d_ffn_;
  bool is_ordered_;
  RowForms wide_, narrow_;
  RoundedRows rounded_;
  // of the batch: its first pair and their number, its parts, and rows of input (and then of output), gate and up
  int64_t first_ = 0, n_ = 0;
  std::vector<Part> parts_;
  float *rows_ND_ = nullptr, *gate_NF_ = nullptr, *up_NF_ = nullptr;
};

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
  const int64_t n_experts = experts.gate->n_stacked;
  const Pairs pairs(chosen, n_rows, n_experts);
  std::memcpy(out, residual, static_cast<size_t>(n_rows * experts.gate->view.n_in) * 4);
  ExpertsCall call(kernels_, pool_, experts, x, n_rows, pairs, out);
  for (int64_t begin = 0, end = 0; begin < n_experts; begin = end) {
    end = begin + 1;
    while (end < n_experts && pairs.start(end + 1) - pairs.start(begin) <= kBatchRows) ++end;
    if (pairs.start(end) > pairs.start(begin)) call.add(begin, end);
  }
}

}  // namespace samovar
