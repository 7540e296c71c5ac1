// Calls of operations, written down once and then run again and again: the shape of a step is fixed, what its buffers hold is not.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "ops.h"

namespace samovar {

class Program {
 public:
  explicit Program(Engine& engine) : engine_(engine) {}
  using Call = std::function<void(Engine&)>;

  // The pointers in `call` must stay good as long as the program is run. A call checks the numbers in its buffers each time.
  void add(Call call) { calls_.push_back(std::move(call)); }
  void run() const {
    for (const Call& call : calls_) call(engine_);
  }
  size_t size() const { return calls_.size(); }
  Engine& engine() const { return engine_; }

 private:
  Engine& engine_;
  std::vector<Call> calls_;
};

}  // namespace samovar
