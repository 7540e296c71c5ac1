// Aligned memory: an arena for packed weights (large mappings, huge pages where the system has them) and scratch per thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace samovar {

// One anonymous mapping. Pages take memory when first written.
class Mapping {
 public:
  explicit Mapping(int64_t n_bytes);  // throws std::bad_alloc
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  uint8_t* data_;
  int64_t size_;
};

// A piece of a mapping; the mapping lives as long as its last piece.
struct Piece {
  std::shared_ptr<Mapping> mapping;
  uint8_t* data = nullptr;
};

// Hands out pieces of shared mappings, so that many small weights sit together on few huge pages.
class Arena {
 public:
  Piece take(int64_t n_bytes);  // 64-byte aligned, zeroed; at least 4 KiB past the end may be read

 private:
  std::mutex mutex_;
  std::shared_ptr<Mapping> current_;
  int64_t used_ = 0;
};

// Scratch of this thread that stays until the thread ends; a later call with the same slot takes it over.
enum class Slot : int { kCall = 0, kWork = 1, kStates = 2, kOrdered = 3 };
uint8_t* scratch(Slot slot, int64_t n_bytes);

}  // namespace samovar
