#include "memory.h"

#include <sys/mman.h>

#include <new>

namespace samovar {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kMappingBytes = 64 << 20;
constexpr int64_t kReadAhead = 4096;  // kernels may prefetch and load past a piece's end

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

struct Scratch {
  std::unique_ptr<Mapping> slots[4];
};
thread_local Scratch thread_scratch;

}  // namespace

Mapping::Mapping(int64_t n_bytes) : size_(round_up(n_bytes, kHugePage)) {
  // One more huge page than needed, so that an aligned part can be kept and the ends given back.
  const int64_t wide = size_ + kHugePage;
  void* raw = mmap(nullptr, static_cast<size_t>(wide), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  auto* start = static_cast<uint8_t*>(raw);
  const int64_t before = round_up(reinterpret_cast<int64_t>(raw), kHugePage) - reinterpret_cast<int64_t>(raw);
  if (before > 0) munmap(start, static_cast<size_t>(before));
  if (before < kHugePage) munmap(start + before + size_, static_cast<size_t>(kHugePage - before));
  data_ = start + before;
#if defined(MADV_HUGEPAGE)
  madvise(data_, static_cast<size_t>(size_), MADV_HUGEPAGE);
#endif
}

Mapping::~Mapping() { munmap(data_, static_cast<size_t>(size_)); }

Piece Arena::take(int64_t n_bytes) {
  const int64_t size = round_up(n_bytes + kReadAhead, 64);
  if (size > kMappingBytes / 4) {
    auto own = std::make_shared<Mapping>(size);
    return {own, own->data()};
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (current_ == nullptr || used_ + size > current_->size()) {
    current_ = std::make_shared<Mapping>(kMappingBytes);
    used_ = 0;
  }
  Piece piece{current_, current_->data() + used_};
  used_ += size;
  return piece;
}

uint8_t* scratch(Slot slot, int64_t n_bytes) {
  std::unique_ptr<Mapping>& held = thread_scratch.slots[static_cast<int>(slot)];
  if (held == nullptr || held->size() < n_bytes + 64) held = std::make_unique<Mapping>(n_bytes + 64);
  return held->data();
}

}  // namespace samovar
