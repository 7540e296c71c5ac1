// samovar._native: what this machine can do at most, for `samovar bench`.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "cpu.h"
#include "machine_limits.h"

namespace nb = nanobind;
using namespace nb::literals;

void bind_limits(nb::module_& m) {
  using Free = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<samovar::Limits>(m, "Limits", "See limits.h.")
      .def(
          "__init__",
          [](samovar::Limits* self, const std::string& isa, int n_threads, int64_t n_bytes) {
            const samovar::Kernels* kernels = samovar::find_kernels(isa);
            if (kernels == nullptr || n_threads < 1 || n_bytes < 1) throw nb::value_error("no such instruction set, thread or size");
            new (self) samovar::Limits(*kernels, n_threads, n_bytes);
          },
          "isa"_a, "n_threads"_a, "n_bytes"_a)
      .def("read_bytes_per_s", &samovar::Limits::read_bytes_per_s, Free(), "One pass over the buffer.")
      .def("int8_ops_per_s", &samovar::Limits::int8_ops_per_s, "n_rounds"_a, Free(), "Eight times as many rounds a thread.");
}
