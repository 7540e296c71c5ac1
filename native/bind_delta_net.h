// Adds what gated delta nets need to the Python classes of the engine and of programs.
#pragma once

#include <nanobind/nanobind.h>

#include "program.h"

void bind_delta_net(nanobind::class_<samovar::Engine>& engine, nanobind::class_<samovar::Program>& program);
