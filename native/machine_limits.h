// The machine's own limits, measured with the threads and the instruction set of an engine: what its speed is a share of.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "kernels.h"
#include "memory.h"
#include "parallel.h"

namespace samovar {

inline constexpr int64_t kOpsPerRound = 16 * 64 * 2;  // of dot_many: a multiplication and an addition for each byte

class Limits {
 public:
  // The buffer of n_bytes should be several times larger than the caches. Throws std::bad_alloc.
  Limits(const Kernels& kernels, int n_threads, int64_t n_bytes)
      : kernels_(kernels), pool_(n_threads), n_pieces_(std::max<int64_t>(1, n_bytes / kPiece)), buffer_(n_pieces_ * kPiece + kPiece) {
    pool_.for_each(n_pieces_, [this](int64_t i) { std::memset(buffer_.data() + i * kPiece, static_cast<int>(i % 7), kPiece); });
  }

  // Bytes a second of one plain pass over the buffer, all threads.
  double read_bytes_per_s() {
    const auto start = std::chrono::steady_clock::now();
    pool_.for_each(n_pieces_, [this](int64_t i) { sink_ |= kernels_.read_all(buffer_.data() + i * kPiece, kPiece); });
    return static_cast<double>(n_pieces_ * kPiece) / seconds_since(start);
  }

  // 8-bit multiplications and additions a second, operands in the first-level cache, all threads.
  double int8_ops_per_s(int64_t n_rounds) {
    const int64_t n_items = 8 * pool_.n_threads();
    const auto start = std::chrono::steady_clock::now();
    pool_.for_each(n_items, [&](int64_t) {
      const auto* x = reinterpret_cast<const int8_t*>(buffer_.data());
      sink_ |= static_cast<uint8_t>(kernels_.dot_many(buffer_.data(), x, n_rounds));
    });
    return static_cast<double>(n_items * n_rounds * kOpsPerRound) / seconds_since(start);
  }

 private:
  static constexpr int64_t kPiece = 1 << 20;

  static double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  const Kernels& kernels_;
  ThreadPool pool_;
  int64_t n_pieces_;
  Mapping buffer_;
  std::atomic<uint8_t> sink_{0};
};

}  // namespace samovar
