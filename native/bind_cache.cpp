// samovar._native: what the cache of packed weights needs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bus_error.h"
#include "checksum.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu, nb::ndim<1>>;
using Free = nb::call_guard<nb::gil_scoped_release>;

void make_checker(samovar::Checker* checker, const std::vector<Bytes>& pieces, const std::vector<uint64_t>& expected, int n_threads) {
  if (pieces.size() != expected.size()) throw nb::value_error("one checksum for each piece is wanted");
  std::vector<samovar::CheckedBytes> checked;
  for (size_t i = 0; i < pieces.size(); ++i) {
    checked.push_back({pieces[i].data(), static_cast<int64_t>(pieces[i].size()), expected[i]});
  }
  new (checker) samovar::Checker(std::move(checked), n_threads);
}

}  // namespace

void bind_cache(nb::module_& m) {
  m.def(
      "checksum", [](const Bytes& data) { return samovar::checksum(data.data(), static_cast<int64_t>(data.size())); },
      "data"_a.noconvert(), Free(), "64-bit checksum of bytes, see checksum.h.");
  m.def("say_on_bus_error", &samovar::say_on_bus_error, "message"_a, "See bus_error.h.");
  nb::class_<samovar::Checker>(m, "Checker", "Compares checksums in threads of its own, see checksum.h.")
      .def("__init__", &make_checker, "pieces"_a.noconvert(), "expected"_a, "n_threads"_a, nb::keep_alive<1, 2>())
      .def("is_sound", &samovar::Checker::is_sound, "piece"_a, Free());
}
