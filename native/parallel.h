// A thread pool that hands out numbered items one by one. The caller works too; results must not depend on who does what.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace samovar {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);  // the caller and n_threads - 1 workers
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // f(item) for each item below n_items, in any order, on any thread; returns when all are done. f must not throw. A call while
  // another thread's call runs, or in a forked child, does its items on the calling thread.
  template <class Function>
  void for_each(int64_t n_items, Function f) {
    run(n_items, [](void* context, int64_t item) { (*static_cast<Function*>(context))(item); }, &f);
  }

 private:
  using Task = void (*)(void* context, int64_t item);

  void run(int64_t n_items, Task task, void* context);
  void take_items();
  void work();
  bool await_signal(uint32_t seen);

  std::mutex busy_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t n_items_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  // The job is open to workers while bit 31 is set; the other bits count the workers inside. The caller closes it when no item
  // is left and waits for those inside only, so a worker that the system has not scheduled delays nobody.
  alignas(64) std::atomic<uint32_t> door_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};
  std::atomic<bool> is_stopping_{false};
  int64_t process_;
  std::vector<std::thread> workers_;
};

}  // namespace samovar
