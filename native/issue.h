// What the bindings of operations share: arrays, checks, and where a call goes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <utility>

#include "program.h"

template <class T, class... Rest>
using Array = nanobind::ndarray<T, nanobind::c_contig, nanobind::device::cpu, Rest...>;

// What fails here is a bug of the caller, and must not become an access to foreign memory.
inline void check(bool is_sound, const char* what) {
  if (!is_sound) throw nanobind::value_error(what);
}

// To the engine, now, or into a program. Lengths are checked at once; what is found in buffers, in the call.
template <class Call>
void issue(samovar::Engine& engine, Call call) {
  const samovar::Engine::Timer timer(engine);
  call(engine);
}
template <class Call>
void issue(samovar::Program& program, Call call) {
  program.add(std::move(call));
}
