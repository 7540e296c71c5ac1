// A packed weight as Python holds it, and how one is filled.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "ops.h"

struct Linear {
  samovar::PackedLinear packed;
  nanobind::ndarray<const uint8_t, nanobind::c_contig, nanobind::device::cpu, nanobind::ndim<1>> adopted;  // keeps it mapped

  // The view to compute on. Throws ValueError before the weight is packed, and for a stack.
  const samovar::WeightView& view() const;
  // The stack to compute on. Throws ValueError before it is packed.
  const samovar::PackedLinear& stack() const;
};

void bind_linear(nanobind::module_& m, nanobind::class_<samovar::Engine>& engine);
