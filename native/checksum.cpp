#include "checksum.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#if defined(SAMOVAR_X86) && defined(__GNUC__) && !defined(__clang__)
#define SAMOVAR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SAMOVAR_CLONES
#endif

namespace samovar {
namespace {

constexpr int64_t kChunkBytes = 256 << 10;
constexpr int64_t kBlockWords = 1024;
constexpr uint64_t kFold = 0x9E3779B185EBCA87;  // a prime of xxHash

constexpr std::array<uint64_t, kBlockWords> make_keys() {
  std::array<uint64_t, kBlockWords> keys{};
  uint64_t state = 0;
  for (uint64_t& key : keys) {
    uint64_t z = (state += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    key = z ^ (z >> 31);
  }
  return keys;
}
constexpr std::array<uint64_t, kBlockWords> kKeys = make_keys();

SAMOVAR_CLONES uint64_t block_sum(const uint8_t* data, int64_t n_words) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n_words; ++i) {
    uint64_t w;
    std::memcpy(&w, data + 8 * i, 8);
    const uint64_t x = w ^ kKeys[static_cast<size_t>(i)];
    sum += (x & 0xFFFFFFFF) * (x >> 32) + w;
  }
  return sum;
}

uint64_t chunk_sum(const uint8_t* data, int64_t n_bytes) {
  uint64_t h = static_cast<uint64_t>(n_bytes);
  for (int64_t at = 0; at < n_bytes; at += 8 * kBlockWords) {
    const int64_t size = std::min<int64_t>(8 * kBlockWords, n_bytes - at), whole = size / 8;
    uint64_t sum = block_sum(data + at, whole);
    if (size % 8 != 0) {
      uint64_t w = 0;
      std::memcpy(&w, data + at + 8 * whole, static_cast<size_t>(size % 8));
      const uint64_t x = w ^ kKeys[static_cast<size_t>(whole)];
      sum += (x & 0xFFFFFFFF) * (x >> 32) + w;
    }
    h = (h ^ sum) * kFold;
  }
  return h;
}

}  // namespace

uint64_t checksum(const uint8_t* data, int64_t n_bytes, int n_threads) {
  const int64_t n_chunks = (n_bytes + kChunkBytes - 1) / kChunkBytes;
  std::vector<uint64_t> sums(static_cast<size_t>(n_chunks));
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i = next.fetch_add(1); i < n_chunks; i = next.fetch_add(1)) {
      sums[static_cast<size_t>(i)] = chunk_sum(data + i * kChunkBytes, std::min(kChunkBytes, n_bytes - i * kChunkBytes));
    }
  };
  std::vector<std::thread> workers;
  for (int64_t i = 1; i < std::min<int64_t>(n_threads, n_chunks / 4); ++i) {
    workers.emplace_back(work);  // a chunk is some 20 us of work, a thread costs as much
  }
  work();
  for (std::thread& worker : workers) worker.join();
  uint64_t h = static_cast<uint64_t>(n_bytes);
  for (const uint64_t sum : sums) h = (h ^ sum) * kFold;
  return h;
}

}  // namespace samovar
