// samovar._native: one method per operation. Arrays are checked for dtype, rank and contiguity here; lengths that must agree
// are checked by the caller, samovar.kernels.native.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "cpu.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using samovar::Engine;

template <class T, class... Rest>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu, Rest...>;
using Input = Array<const float>;
using Output = Array<float>;
using Pages = nb::ndarray<nb::c_contig, nb::device::cpu, nb::ndim<4>>;

// A packed weight as Python holds it.
struct Linear {
  samovar::PackedLinear packed;
};

int64_t last_axis(const Input& x) { return static_cast<int64_t>(x.shape(x.ndim() - 1)); }

Linear pack(Engine& engine, int type_id, const Array<const uint8_t, nb::ndim<1>>& stored, int64_t n_out, int64_t n_in) {
  const samovar::Format* format = samovar::find_format(type_id);
  if (format == nullptr || n_out < 1 || n_in < 1 || n_in % format->block_elements != 0 ||
      static_cast<int64_t>(stored.size()) != n_out * (n_in / format->block_elements) * format->block_bytes) {
    throw nb::value_error("a weight's type, shape and bytes do not agree");
  }
  return Linear{engine.pack_linear(*format, {stored.data(), stored.size()}, n_out, n_in)};
}

void embed(Engine& engine, int type_id, const Array<const uint8_t, nb::ndim<1>>& table, const Array<const int64_t, nb::ndim<1>>& ids,
           Output out) {
  const samovar::Format* format = samovar::find_format(type_id);
  const auto n_in = static_cast<int64_t>(out.shape(1));
  engine.embed(*format, table.data(), n_in, ids.data(), static_cast<int64_t>(ids.size()), out.data());
}

void linear(Engine& engine, const Input& x, const Linear& weight, Output out) {
  const int64_t n_in = last_axis(x);
  const samovar::Product product{&weight.packed.view, out.data()};
  engine.linears(x.data(), static_cast<int64_t>(x.size()) / n_in, n_in, {&product, 1});
}

void linears(Engine& engine, const Input& x, const nb::tuple& weights, const nb::tuple& outs) {
  std::vector<samovar::Product> products;
  products.reserve(nb::len(weights));
  for (size_t i = 0; i < nb::len(weights); ++i) {
    products.push_back({&nb::cast<const Linear&>(weights[i], false).packed.view, nb::cast<Output>(outs[i], false).data()});
  }
  const nb::gil_scoped_release release;
  const int64_t n_in = last_axis(x);
  engine.linears(x.data(), static_cast<int64_t>(x.size()) / n_in, n_in, products);
}

void rms_norm(Engine& engine, const Input& x, const Array<const float, nb::ndim<1>>& weight, float eps, Output out) {
  const int64_t n_in = last_axis(x);
  engine.rms_norm(x.data(), weight.data(), eps, static_cast<int64_t>(x.size()) / n_in, n_in, out.data());
}

void rope(Engine& engine, const Array<const float, nb::ndim<3>>& x, const Array<const float, nb::ndim<2>>& cos,
          const Array<const float, nb::ndim<2>>& sin, Output out) {
  engine.rope(x.data(), cos.data(), sin.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
              static_cast<int64_t>(x.shape(2)), static_cast<int64_t>(cos.shape(1)), out.data());
}

void silu_gate(Engine& engine, const Input& gate, const Input& up, Output out) {
  engine.silu_gate(gate.data(), up.data(), static_cast<int64_t>(gate.size()), out.data());
}

// Page tables come from an allocator; a wrong one must not become a read of foreign memory.
void check(bool is_sound, const char* what) {
  if (!is_sound) throw nb::value_error(what);
}

samovar::KvView kv_view(int kind, const Pages& k, const Pages& v) {
  return {static_cast<samovar::KvKind>(kind), static_cast<int64_t>(k.shape(1)), static_cast<int64_t>(k.shape(2)),
          static_cast<uint8_t*>(k.data()), static_cast<uint8_t*>(v.data())};
}

void write_kv(Engine& engine, const Input& k, const Input& v, int kind, const Pages& k_pages, const Pages& v_pages,
              const Array<const int64_t, nb::ndim<1>>& slots) {
  const auto n_slots = static_cast<int64_t>(k_pages.shape(0)) * samovar::kPageTokens;
  for (size_t i = 0; i < slots.size(); ++i) check(slots.data()[i] >= 0 && slots.data()[i] < n_slots, "a slot lies outside the pages");
  engine.write_kv(k.data(), v.data(), kv_view(kind, k_pages, v_pages), slots.data(), static_cast<int64_t>(slots.size()));
}

void attention(Engine& engine, const Array<const float, nb::ndim<3>>& q, int kind, const Pages& k_pages, const Pages& v_pages,
               const Array<const int32_t, nb::ndim<1>>& row_starts, const Array<const int32_t, nb::ndim<1>>& positions,
               const Array<const int32_t, nb::ndim<2>>& page_tables, float scale, Output out) {
  const auto n_sequences = static_cast<int64_t>(positions.size()), width = static_cast<int64_t>(page_tables.shape(1));
  const int32_t *starts = row_starts.data(), *tables = page_tables.data();
  check(static_cast<int64_t>(row_starts.size()) == n_sequences + 1 && static_cast<int64_t>(page_tables.shape(0)) == n_sequences &&
            starts[0] == 0 && starts[n_sequences] == static_cast<int64_t>(q.shape(0)),
        "spans do not cover the rows");
  for (int64_t s = 0; s < n_sequences; ++s) {
    const int64_t n_new = starts[s + 1] - starts[s], n_pages = (positions.data()[s] + n_new + samovar::kPageTokens - 1) / samovar::kPageTokens;
    check(n_new >= 0 && positions.data()[s] >= 0 && n_pages <= width, "a sequence is longer than its page table");
    for (int64_t p = 0; p < n_pages; ++p) {
      check(tables[s * width + p] >= 0 && tables[s * width + p] < static_cast<int64_t>(k_pages.shape(0)), "no such page");
    }
  }
  const samovar::SpanView spans{row_starts.data(), positions.data(), page_tables.data(), static_cast<int64_t>(positions.size()),
                                static_cast<int64_t>(page_tables.shape(1))};
  engine.attention(q.data(), static_cast<int64_t>(q.shape(1)), kv_view(kind, k_pages, v_pages), spans, scale, out.data());
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("available_isas", &samovar::available_isas, "Names of the instruction sets that this processor runs, best last.");
  nb::class_<Linear>(m, "NativeLinear", "A packed weight [n_out, n_in].")
      .def_prop_ro("n_out", [](const Linear& w) { return w.packed.view.n_out; })
      .def_prop_ro("n_in", [](const Linear& w) { return w.packed.view.n_in; })
      .def_prop_ro("size_bytes", [](const Linear& w) { return w.packed.size_bytes; });

  using Free = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Engine>(m, "Engine", "Kernels of one instruction set, a thread pool, and memory for weights.")
      .def(
          "__init__",
          [](Engine* self, const std::string& isa, int n_threads) {
            const samovar::Kernels* kernels = samovar::find_kernels(isa);
            if (kernels == nullptr || n_threads < 1) throw nb::value_error("no such instruction set, or no thread");
            new (self) Engine(*kernels, n_threads);
          },
          "isa"_a, "n_threads"_a)
      .def_prop_ro("n_threads", &Engine::n_threads)
      .def("pack", &pack, "type_id"_a, "stored"_a.noconvert(), "n_out"_a, "n_in"_a, Free(), nb::keep_alive<0, 1>(),
           "stored: the blocks of n_out rows in GGUF type number `type_id`.")
      .def("embed", &embed, "type_id"_a, "table"_a.noconvert(), "ids"_a.noconvert(), "out"_a.noconvert(), Free(),
           "out [T, D] = rows ids [T] of a stored [V, D] table.")
      .def("linear", &linear, "x"_a.noconvert(), "weight"_a, "out"_a.noconvert(), Free(), "out [T, N] = x [T, D] times weight [N, D].")
      .def("linears", &linears, "x"_a.noconvert(), "weights"_a, "outs"_a, "linear, for several weights and outputs.")
      .def("rms_norm", &rms_norm, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a, "out"_a.noconvert(), Free(),
           "x and out [..., D], weight [D].")
      .def("rope", &rope, "x"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(), "out"_a.noconvert(), Free(),
           "x and out [T, H, K], cos and sin [T, R].")
      .def("silu_gate", &silu_gate, "gate"_a.noconvert(), "up"_a.noconvert(), "out"_a.noconvert(), Free(), "All of one shape.")
      .def("write_kv", &write_kv, "k"_a.noconvert(), "v"_a.noconvert(), "kind"_a, "k_pages"_a.noconvert(), "v_pages"_a.noconvert(),
           "slots"_a.noconvert(), Free(), "k and v [T, G, K] into pages [P, G, K, B] and [P, G, B, K]; kind 0 f32, 1 f16, 2 bf16.")
      .def("attention", &attention, "q"_a.noconvert(), "kind"_a, "k_pages"_a.noconvert(), "v_pages"_a.noconvert(),
           "row_starts"_a.noconvert(), "positions"_a.noconvert(), "page_tables"_a.noconvert(), "scale"_a, "out"_a.noconvert(), Free(),
           "q and out [T, H, K]; row_starts [S + 1], positions [S], page_tables [S, width].");
}
