#include "checksum.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

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

uint64_t checksum(const uint8_t* data, int64_t n_bytes) {
  uint64_t h = static_cast<uint64_t>(n_bytes);
  for (int64_t at = 0; at < n_bytes; at += kChunkBytes) {
    h = (h ^ chunk_sum(data + at, std::min(kChunkBytes, n_bytes - at))) * kFold;
  }
  return h;
}

Checker::Checker(std::vector<CheckedBytes> pieces, int n_threads) : pieces_(std::move(pieces)), states_(pieces_.size()) {
  for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
}

Checker::~Checker() {
  next_.store(static_cast<int64_t>(pieces_.size()));
  for (std::thread& thread : threads_) thread.join();
}

bool Checker::is_sound(int64_t piece) const {
  const std::atomic<State>& state = states_.at(static_cast<size_t>(piece));
  state.wait(kOpen);
  return state.load() == kSound;
}

void Checker::work() {
  const auto n = static_cast<int64_t>(pieces_.size());
  for (int64_t i = next_.fetch_add(1); i < n; i = next_.fetch_add(1)) {
    const CheckedBytes& piece = pieces_[static_cast<size_t>(i)];
    std::atomic<State>& state = states_[static_cast<size_t>(i)];
    state.store(checksum(piece.data, piece.n_bytes) == piece.expected ? kSound : kDamaged);
    state.notify_all();
  }
}

}  // namespace samovar
