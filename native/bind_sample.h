// Adds sampling to the Python class of the engine.
#pragma once

#include <nanobind/nanobind.h>

#include "ops.h"

void bind_sample(nanobind::class_<samovar::Engine>& engine);
