// samovar._native: what the cache of packed weights needs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "checksum.h"

namespace nb = nanobind;
using namespace nb::literals;

void bind_cache(nb::module_& m) {
  using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu, nb::ndim<1>>;
  m.def(
      "checksum",
      [](const Bytes& data, int n_threads) {
        const nb::gil_scoped_release release;
        return samovar::checksum(data.data(), static_cast<int64_t>(data.size()), n_threads);
      },
      "data"_a.noconvert(), "n_threads"_a, "64-bit checksum of bytes, see checksum.h.");
}
