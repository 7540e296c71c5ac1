#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "ops.h"
#include "sample_weight.h"

namespace samovar {
namespace {

constexpr int64_t kLanes = 16;           // maxima of a block
constexpr int64_t kBlocksPerItem = 16;   // 64 KiB of logits
constexpr int64_t kFirstCandidates = 64;  // of top-p; more are taken where these do not reach
constexpr double kSmallest = 1e-300;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Candidate {
  float score;
  int64_t id;
};
bool is_before(const Candidate& a, const Candidate& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

struct High128 {
  uint64_t high, low;
};
High128 multiply(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return {static_cast<uint64_t>(product >> 64), static_cast<uint64_t>(product)};
}

double uniform(uint64_t seed, uint64_t position) {
  uint64_t c[4] = {position + 1, position + 1 == 0, 0, 0}, key[2] = {seed, 0};
  for (int round = 0; round < 10; ++round) {
    const High128 a = multiply(0xD2E7470EE14C6C93u, c[0]), b = multiply(0xCA5A826395121157u, c[2]);
    const uint64_t c1 = c[1], c3 = c[3];
    c[0] = b.high ^ c1 ^ key[0];
    c[1] = b.low;
    c[2] = a.high ^ c3 ^ key[1];
    c[3] = a.low;
    key[0] += 0x9E3779B97F4A7C15u;
    key[1] += 0xBB67AE8584CAA73Bu;
  }
  return static_cast<double>(c[0] >> 11) * 0x1p-53;
}

// One row on its way: its scores and what is known of them by block.
struct Row {
  const float* scores;
  int64_t n;
  float* maxima;  // [blocks][16]: lane j of a block is the largest of its elements j, j + 16, ...
  double* sums;   // [blocks]: weights
  double temperature, top_p, min_p;
  int64_t top_k;
  double u;
  float top;

  int64_t n_blocks() const { return ceil_div(n, kSampleBlock); }
  bool has_top_k() const { return top_k > 0 && top_k < n; }
  bool needs_sums() const { return temperature > 0 && !has_top_k(); }
  bool is_cut() const { return has_top_k() || top_p < 1; }
  double floor() const { return std::max(min_p, kSmallest); }
  double inverse_temperature() const { return std::min(1 / temperature, 1e300); }
  double weight(float score, double floor) const { return sample_weight(score, top, inverse_temperature(), floor); }
};

bool has_mask(const SampleView& view, int64_t s) {
  if (view.mask == nullptr) return false;
  const int64_t width = ceil_div(view.n_vocabulary, 32);
  const uint32_t* words = view.mask + s * width;
  const auto last = static_cast<uint32_t>((uint64_t{1} << (view.n_vocabulary - (width - 1) * 32)) - 1);
  return (words[width - 1] & last) != last ||
         std::any_of(words, words + width - 1, [](uint32_t word) { return word != ~uint32_t{0}; });
}

bool has_penalty(const SampleView& view, int64_t s) {
  return view.seen_starts[s] < view.seen_starts[s + 1] || view.bias_starts[s] < view.bias_starts[s + 1];
}

void adjust(const SampleView& view, int64_t s, const float* logits, float* x) {
  const int64_t n = view.n_vocabulary;
  if (has_mask(view, s)) {
    const uint32_t* words = view.mask + s * ceil_div(n, 32);
    for (int64_t i = 0; i < n; ++i) x[i] = (words[i / 32] >> (i % 32) & 1) != 0 ? logits[i] : -INFINITY;
  } else {
    std::memcpy(x, logits, static_cast<size_t>(n) * sizeof(float));
  }
  for (int64_t i = view.bias_starts[s]; i < view.bias_starts[s + 1]; ++i) x[view.bias_ids[i]] += view.bias_values[i];
  const float repetition = view.repetition[s], presence = view.presence[s], frequency = view.frequency[s];
  for (int64_t i = view.seen_starts[s]; i < view.seen_starts[s + 1]; ++i) {
    float& score = x[view.seen_ids[i]];
    score = score > 0 ? score / repetition : score * repetition;
    if (view.seen_counts[i] > 0) score -= presence + frequency * static_cast<float>(view.seen_counts[i]);
  }
}

int64_t first_largest(const Row& row) {
  int64_t group = 0;
  while (row.maxima[group] != row.top) ++group;
  int64_t id = group / kLanes * kSampleBlock;
  while (row.scores[id] != row.top) ++id;
  return id;
}

// All ids with a weight, in ascending order.
int64_t draw_from_all(const Row& row, const Kernels& kernels) {
  double total = 0;
  for (int64_t block = 0; block < row.n_blocks(); ++block) total += row.sums[block];
  const double goal = row.u * total;
  int64_t chosen = 0;
  double before = 0, running = 0;
  for (int64_t block = 0; block < row.n_blocks(); ++block) {
    if (row.sums[block] == 0) continue;
    chosen = block;
    before = running;
    running += row.sums[block];
    if (running > goal) break;
  }
  double weights[kSampleBlock];
  const int64_t first = chosen * kSampleBlock;
  kernels.weigh(row.scores + first, row.n - first, row.top, row.inverse_temperature(), row.floor(), weights);
  int64_t id = 0;
  running = 0;
  for (int64_t i = 0; i < kSampleBlock; ++i) {
    if (weights[i] == 0) continue;
    id = first + i;
    running += weights[i];
    if (before + running > goal) break;
  }
  return id;
}

// At least the `count` first candidates, unsorted. The count-th largest of the lanes' maxima is a lower bound of the count-th
// largest score, since each lane has a score of its own that is as large; only lanes that reach it are looked at.
void collect(const Row& row, int64_t count, std::vector<float>& maxima, std::vector<Candidate>& out) {
  const int64_t n_groups = row.n_blocks() * kLanes;
  float limit = -INFINITY;
  if (count <= n_groups) {
    maxima.assign(row.maxima, row.maxima + n_groups);
    std::nth_element(maxima.begin(), maxima.begin() + (count - 1), maxima.end(), std::greater<>());
    limit = maxima[static_cast<size_t>(count - 1)];
  }
  out.clear();
  for (int64_t group = 0; group < n_groups; ++group) {
    if (!(row.maxima[group] >= limit)) continue;
    const int64_t first = group / kLanes * kSampleBlock + group % kLanes;
    const int64_t end = std::min(row.n, (group / kLanes + 1) * kSampleBlock);
    for (int64_t id = first; id < end; id += kLanes) {
      if (row.scores[id] >= limit) out.push_back({row.scores[id], id});
    }
  }
}

// Candidates by descending score, as many as top-k and top-p can need; `running` gets the sums of their weights.
int64_t draw_from_first(const Row& row) {
  thread_local std::vector<float> maxima;
  thread_local std::vector<Candidate> candidates;
  thread_local std::vector<double> running;
  double total = 0;
  if (!row.has_top_k()) {
    for (int64_t block = 0; block < row.n_blocks(); ++block) total += row.sums[block];
  }
  for (int64_t count = row.has_top_k() ? row.top_k : std::min(row.n, kFirstCandidates);; count = std::min(row.n, count * 8)) {
    collect(row, count, maxima, candidates);
    const auto first = candidates.begin(), end = first + count;
    if (end < candidates.end()) std::nth_element(first, end, candidates.end(), is_before);
    std::sort(first, end, is_before);
    double sum = 0;
    running.clear();
    for (int64_t i = 0; i < count; ++i) {
      sum += row.weight(first[i].score, kSmallest);
      running.push_back(sum);
    }
    const double reach = row.top_p * (row.has_top_k() ? sum : total);
    if (!row.has_top_k() && sum < reach && count < row.n) continue;
    size_t n_kept = 1;
    while (n_kept < running.size() && running[n_kept - 1] < reach &&
           row.weight(candidates[n_kept].score, row.floor()) > 0) {
      ++n_kept;
    }
    const auto kept_end = running.begin() + static_cast<int64_t>(n_kept);
    const auto found = std::upper_bound(running.begin(), kept_end, row.u * running[n_kept - 1]) - running.begin();
    return candidates[std::min(static_cast<size_t>(found), n_kept - 1)].id;
  }
}

}  // namespace

void Engine::sample(const float* logits, const SampleView& view, int64_t* ids) {
  const int64_t n = view.n_vocabulary, n_blocks = ceil_div(n, kSampleBlock), n_items = ceil_div(n_blocks, kBlocksPerItem);
  std::vector<int64_t> adjusted;
  for (int64_t s = 0; s < view.n_rows; ++s) {
    if (has_penalty(view, s) || has_mask(view, s)) adjusted.push_back(s);
  }
  const auto n_adjusted = static_cast<int64_t>(adjusted.size());
  const int64_t maxima_floats = n_blocks * kLanes;
  uint8_t* memory = scratch(Slot::kCall, view.n_rows * (n_blocks * 8 + maxima_floats * 4) + n_adjusted * n * 4);
  auto* sums = reinterpret_cast<double*>(memory);
  auto* maxima = reinterpret_cast<float*>(sums + view.n_rows * n_blocks);
  float* copies = maxima + view.n_rows * maxima_floats;
  pool_.for_each(n_adjusted, [&](int64_t i) {
    const int64_t s = adjusted[static_cast<size_t>(i)];
    adjust(view, s, logits + s * n, copies + i * n);
  });
  std::vector<Row> rows;
  for (int64_t s = 0; s < view.n_rows; ++s) {
    rows.push_back({logits + s * n, n, maxima + s * maxima_floats, sums + s * n_blocks, view.temperature[s], view.top_p[s],
                    view.min_p[s], view.top_k[s], uniform(view.seeds[s], view.positions[s]), -INFINITY});
  }
  for (int64_t i = 0; i < n_adjusted; ++i) rows[static_cast<size_t>(adjusted[static_cast<size_t>(i)])].scores = copies + i * n;

  // Items are runs of blocks of a row.
  const auto for_blocks = [&](auto f) {
    pool_.for_each(view.n_rows * n_items, [&](int64_t item) {
      Row& row = rows[static_cast<size_t>(item / n_items)];
      const int64_t first = item % n_items * kBlocksPerItem, last = std::min(n_blocks, first + kBlocksPerItem);
      for (int64_t block = first; block < last; ++block) f(row, block, row.scores + block * kSampleBlock, n - block * kSampleBlock);
    });
  };
  for_blocks([&](Row& row, int64_t block, const float* x, int64_t left) {
    // A sum is a number only where the block has no NaN; it is replaced below where weights are wanted.
    row.sums[block] = kernels_.lane_maxima(x, left, row.maxima + block * kLanes) ? 0 : NAN;
  });
  for (Row& row : rows) {
    row.top = *std::max_element(row.maxima, row.maxima + maxima_floats);
    if (std::any_of(row.sums, row.sums + n_blocks, [](double sum) { return std::isnan(sum); })) row.top = NAN;
  }
  const auto is_sound = [](const Row& row) { return std::isfinite(row.top); };
  if (std::any_of(rows.begin(), rows.end(), [&](const Row& row) { return is_sound(row) && row.needs_sums(); })) {
    for_blocks([&](Row& row, int64_t block, const float* x, int64_t left) {
      if (!is_sound(row) || !row.needs_sums()) return;
      double weights[kSampleBlock];
      const double floor = row.is_cut() ? kSmallest : row.floor();
      row.sums[block] = kernels_.weigh(x, left, row.top, row.inverse_temperature(), floor, weights);
    });
  }
  pool_.for_each(view.n_rows, [&](int64_t s) {
    const Row& row = rows[static_cast<size_t>(s)];
    if (!is_sound(row)) {
      ids[s] = row.top == -INFINITY ? kNothingAllowed : kNotANumber;
    } else if (row.temperature == 0) {
      ids[s] = first_largest(row);
    } else {
      ids[s] = row.is_cut() ? draw_from_first(row) : draw_from_all(row, kernels_);
    }
  });
}

}  // namespace samovar
