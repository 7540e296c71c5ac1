#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "ops.h"
#include "sample_weight.h"

namespace samovar {
namespace {

constexpr int64_t kLanes = 16;           // maxima of a block
constexpr int64_t kBlocksPerItem = 16;   // 64 KiB of logits
constexpr int64_t kFirstCandidates = 64;  // of top-p; more are taken where these do not reach
constexpr int64_t kMostCandidates = 512;  // sorting more would be slower than counting them in buckets
constexpr double kBucketsPerNat = 64;
constexpr size_t kBuckets = static_cast<size_t>(-kWeightless * kBucketsPerNat) + 1;


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
  double inverse_temperature() const { return std::min(1 / temperature, 1e300); }
  double weight(float score) const { return sample_weight(score, top, inverse_temperature(), 0); }
  double if_kept(double weight) const { return weight >= min_p ? weight : 0; }
  double goal(double kept) const { return std::min(u * kept, kept - kSampleUnit); }
  // Buckets of equal width in (top - score) / temperature, in which scores only fall; the last holds all without weight.
  size_t bucket(float score) const {
    const double scaled = (static_cast<double>(score) - static_cast<double>(top)) * inverse_temperature();
    return static_cast<size_t>((scaled > kWeightless ? scaled : kWeightless) * -kBucketsPerNat);
  }
  // f(score, id) for each element of a lane.
  template <class Function>
  void for_lane(int64_t group, Function f) const {
    const int64_t end = std::min(n, (group / kLanes + 1) * kSampleBlock);
    for (int64_t id = group / kLanes * kSampleBlock + group % kLanes; id < end; id += kLanes) f(scores[id], id);
  }
  bool is_weightless(int64_t block) const {
    const float* of_block = maxima + block * kLanes;
    return bucket(*std::max_element(of_block, of_block + kLanes)) == kBuckets - 1;
  }
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

double sum(const double* first, int64_t n) { return std::accumulate(first, first + n, 0.0); }

// All ids that min-p leaves, in ascending order.
int64_t draw_from_all(const Row& row, const Kernels& kernels) {
  const double goal = row.goal(sum(row.sums, row.n_blocks()));
  double running = 0;
  int64_t block = 0;
  while (running + row.sums[block] <= goal) running += row.sums[block++];
  double weights[kSampleBlock];
  const int64_t first = block * kSampleBlock;
  kernels.weigh(row.scores + first, row.n - first, row.top, row.inverse_temperature(), row.min_p, weights);
  int64_t i = 0;
  while (running + weights[i] <= goal) running += weights[i++];
  return first + i;
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
    row.for_lane(group, [&](float score, int64_t id) {
      if (score >= limit) out.push_back({score, id});
    });
  }
}

// Walks along candidates in order while the sum of weights before is below `reach`, and stops where that of the kept ones
// exceeds `goal`. Returns the place where it stopped.
struct Walk {
  double before = 0, kept = 0;

  size_t go(const Row& row, const std::vector<Candidate>& candidates, size_t n, double reach, double goal) {
    size_t i = 0;
    for (; i < n && before < reach; ++i) {
      const double weight = row.weight(candidates[i].score);
      if (kept + row.if_kept(weight) > goal) break;
      before += weight;
      kept += row.if_kept(weight);
    }
    return i;
  }
};

// top-p where its ids are many. Sums of weights by bucket tell in which bucket it ends, and in which the draw falls; only the
// ids of these two are put in order.
int64_t draw_from_buckets(const Row& row, const Kernels& kernels, double reach) {
  thread_local std::vector<double> all, kept;
  thread_local std::vector<Candidate> candidates;
  all.assign(kBuckets, 0);
  kept.assign(kBuckets, 0);
  for (int64_t block = 0; block < row.n_blocks(); ++block) {
    if (row.is_weightless(block)) continue;
    const int64_t first = block * kSampleBlock, n = std::min(kSampleBlock, row.n - first);
    double weights[kSampleBlock];
    kernels.weigh(row.scores + first, n, row.top, row.inverse_temperature(), 0, weights);
    for (int64_t i = 0; i < n; ++i) {
      const size_t bucket = row.bucket(row.scores[first + i]);
      all[bucket] += weights[i];
      kept[bucket] += row.if_kept(weights[i]);
    }
  }
  const auto take = [&](size_t bucket) {
    candidates.clear();
    for (int64_t group = 0; group < row.n_blocks() * kLanes; ++group) {
      if (row.bucket(row.maxima[group]) > bucket) continue;
      row.for_lane(group, [&](float score, int64_t id) {
        if (row.bucket(score) == bucket) candidates.push_back({score, id});
      });
    }
    std::sort(candidates.begin(), candidates.end(), is_before);
  };
  Walk end;
  size_t last = 0;
  for (; end.before + all[last] < reach; ++last) {
    end.before += all[last];
    end.kept += kept[last];
  }
  take(last);
  end.go(row, candidates, candidates.size(), reach, INFINITY);
  const double goal = row.goal(end.kept);
  Walk draw;
  size_t bucket = 0;
  for (; bucket < last && draw.kept + kept[bucket] <= goal; ++bucket) {
    draw.before += all[bucket];
    draw.kept += kept[bucket];
  }
  if (bucket < last) take(bucket);
  return candidates[draw.go(row, candidates, candidates.size(), reach, goal)].id;
}

// The first ids by descending score, as many as top-k and top-p can need.
int64_t draw_from_first(const Row& row, const Kernels& kernels) {
  thread_local std::vector<float> maxima;
  thread_local std::vector<Candidate> candidates;
  const double reach = row.has_top_k() ? INFINITY : row.top_p * sum(row.sums, row.n_blocks());
  for (int64_t count = row.has_top_k() ? row.top_k : std::min(row.n, kFirstCandidates);; count = std::min(row.n, count * 8)) {
    if (!row.has_top_k() && count > kMostCandidates) return draw_from_buckets(row, kernels, reach);
    collect(row, count, maxima, candidates);
    const auto end = candidates.begin() + count;
    if (end < candidates.end()) std::nth_element(candidates.begin(), end, candidates.end(), is_before);
    std::sort(candidates.begin(), end, is_before);
    const auto n = static_cast<size_t>(count);
    Walk whole;
    whole.go(row, candidates, n, reach, INFINITY);
    if (row.has_top_k()) {
      const double of_k = row.top_p * whole.before;
      whole = {};
      whole.go(row, candidates, n, of_k, INFINITY);
      return candidates[Walk().go(row, candidates, n, of_k, row.goal(whole.kept))].id;
    }
    if (whole.before >= reach) return candidates[Walk().go(row, candidates, n, reach, row.goal(whole.kept))].id;
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
      for (int64_t block = first; block < last; ++block) {
        f(row, block, row.scores + block * kSampleBlock, n - block * kSampleBlock);
      }
    });
  };
  for_blocks([&](Row& row, int64_t block, const float* x, int64_t left) {
    // A block with a NaN gets it as its sum; other sums are replaced below where weights are wanted.
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
      if (row.is_weightless(block)) return;  // the sum is 0 already
      double weights[kSampleBlock];
      const double floor = row.is_cut() ? 0 : row.min_p;
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
      ids[s] = row.is_cut() ? draw_from_first(row, kernels_) : draw_from_all(row, kernels_);
    }
  });
}

}  // namespace samovar
