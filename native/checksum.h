// A 64-bit checksum that runs as fast as memory is read. It finds damage; it is no defence against an adversary.
//
// The bytes are taken in chunks of 256 KiB, each a sum over its little-endian 64-bit words w[i] (the last one filled up with zeros):
//   sum of low32(x) * high32(x) + w[i], x = w[i] ^ key(i mod 1024), folded after each block of 1024 words as
//   h = (h ^ sum) * P, from h = the chunk's number of bytes. All arithmetic is modulo 2^64.
// key(i) is output i of splitmix64 from seed 0. The chunks' values fold in order in the same way, from the number of all bytes.
// The NumPy twin is `samovar.kernels.checksum`.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace samovar {

uint64_t checksum(const uint8_t* data, int64_t n_bytes);

struct CheckedBytes {
  const uint8_t* data;
  int64_t n_bytes;
  uint64_t expected;
};

// Compares checksums with what they must be, in order, on threads of its own. The bytes have to outlive it.
class Checker {
 public:
  Checker(std::vector<CheckedBytes> pieces, int n_threads);
  ~Checker();  // gives up what was not begun
  Checker(const Checker&) = delete;
  Checker& operator=(const Checker&) = delete;
  bool is_sound(int64_t piece) const;  // waits for the answer

 private:
  enum State : int { kOpen, kSound, kDamaged };
  void work();

  std::vector<CheckedBytes> pieces_;
  std::vector<std::atomic<State>> states_;
  std::atomic<int64_t> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace samovar
