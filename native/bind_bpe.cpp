// samovar._native: byte-pair encoding from a table.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bpe.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu, nb::ndim<1>>;

nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> build(std::vector<std::string> pieces, std::vector<std::string> merges,
                                                   const Bytes& roles, const Bytes& char_classes, int words,
                                                   bool looks_up_words) {
  if (words < 0 || words > 3) throw nb::value_error("no such rule for words");
  const samovar::BytePairSource source{std::move(pieces),
                                       std::move(merges),
                                       {roles.data(), roles.size()},
                                       {char_classes.data(), char_classes.size()},
                                       static_cast<samovar::Words>(words),
                                       looks_up_words};
  auto* table = new std::vector<uint8_t>(samovar::build_byte_pair_table(source));
  const nb::capsule owner(table, [](void* p) noexcept { delete static_cast<std::vector<uint8_t>*>(p); });
  return {table->data(), {table->size()}, owner};
}

}  // namespace

void bind_bpe(nb::module_& m) {
  using samovar::BytePairTable;
  m.def("build_byte_pairs", &build, "pieces"_a, "merges"_a, "roles"_a.noconvert(), "char_classes"_a.noconvert(), "words"_a,
        "looks_up_words"_a, "A table for BytePairs; ValueError where a merge does not fit.");
  nb::class_<BytePairTable>(m, "BytePairs", "Byte-pair encoding from a table, see bpe.h.")
      .def(
          "__init__",
          [](BytePairTable* self, const Bytes& table) { new (self) BytePairTable({table.data(), table.size()}); },
          "table"_a.noconvert(), nb::keep_alive<1, 2>())
      .def_prop_ro("n_tokens", &BytePairTable::n_tokens)
      .def(
          "encode",
          [](const BytePairTable& table, const nb::bytes& text) {
            std::vector<int32_t> ids;
            {
              const nb::gil_scoped_release release;
              ids = table.encode({text.c_str(), text.size()});
            }
            return ids;
          },
          "text"_a, "The ids of a text in UTF-8.")
      .def(
          "piece",
          [](const BytePairTable& table, uint32_t id) {
            const std::string_view piece = table.piece(id);
            return nb::bytes(piece.data(), piece.size());
          },
          "token_id"_a, "The bytes an id stands for; empty where it is no piece.");
}
