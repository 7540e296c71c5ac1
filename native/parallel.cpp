#include "parallel.h"

#include <unistd.h>

#include <chrono>

namespace samovar {
namespace {

constexpr uint32_t kOpen = 1u << 31;
constexpr auto kSpin = std::chrono::microseconds(40);  // longer than the gaps between ops of a step, short beside a time slice

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) : process_(getpid()) {
  for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  is_stopping_.store(true);
  signal_.fetch_add(1);
  signal_.notify_all();
  for (std::thread& worker : workers_) {
    if (process_ == getpid()) {
      worker.join();
    } else {
      worker.detach();  // a forked child has no such thread
    }
  }
}

void ThreadPool::run(int64_t n_items, Task task, void* context) {
  std::unique_lock<std::mutex> lock(busy_, std::defer_lock);
  if (n_items <= 1 || workers_.empty() || !lock.try_lock()) {
    for (int64_t i = 0; i < n_items; ++i) task(context, i);
    return;
  }
  task_ = task;
  context_ = context;
  n_items_ = n_items;
  next_.store(0, std::memory_order_relaxed);
  door_.store(kOpen, std::memory_order_release);
  signal_.fetch_add(1, std::memory_order_release);
  signal_.notify_all();
  take_items();
  door_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; door_.load(std::memory_order_acquire) != 0; ++i) {
    pause();
    if (i % 64 == 63 && std::chrono::steady_clock::now() - start > kSpin) std::this_thread::yield();
  }
}

void ThreadPool::take_items() {
  for (;;) {
    const int64_t item = next_.fetch_add(1, std::memory_order_relaxed);
    if (item >= n_items_) return;
    task_(context_, item);
  }
}

void ThreadPool::work() {
  uint32_t seen = 0;
  for (;;) {
    while (!await_signal(seen)) signal_.wait(seen);
    seen = signal_.load(std::memory_order_acquire);
    if (is_stopping_.load()) return;
    uint32_t door = door_.load(std::memory_order_relaxed);
    while ((door & kOpen) != 0) {
      if (!door_.compare_exchange_weak(door, door + 1, std::memory_order_acq_rel)) continue;
      take_items();
      door_.fetch_sub(1, std::memory_order_release);
      break;
    }
  }
}

bool ThreadPool::await_signal(uint32_t seen) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; ++i) {
      if (signal_.load(std::memory_order_acquire) != seen) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() - start < kSpin);
  return false;
}

}  // namespace samovar
