// samovar._native: one method per operation. Arrays are checked here for dtype, rank, contiguity and lengths that must agree
// (in Python that would cost more than a small operation does); samovar.kernels.native checks the rest and allocates outputs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bind_sample.h"
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

// What fails here is a bug of the caller, and must not become an access to foreign memory.
void check(bool is_sound, const char* what) {
  if (!is_sound) throw nb::value_error(what);
}

int64_t last_axis(const Input& x) { return static_cast<int64_t>(x.shape(x.ndim() - 1)); }

Linear pack(Engine& engine, int type_id, const Array<const uint8_t, nb::ndim<1>>& stored, int64_t n_out, int64_t n_in) {
  const samovar::Format* format = samovar::find_format(type_id);
  check(format != nullptr && n_out > 0 && n_in > 0 && n_in % format->block_elements == 0 &&
            static_cast<int64_t>(stored.size()) == n_out * (n_in / format->block_elements) * format->block_bytes,
        "a weight's type, shape and bytes do not agree");
  return Linear{engine.pack_linear(*format, {stored.data(), stored.size()}, n_out, n_in)};
}

void embed(Engine& engine, int type_id, const Array<const uint8_t, nb::ndim<1>>& table,
           const Array<const int64_t, nb::ndim<1>>& ids, Output out) {
  const samovar::Format* format = samovar::find_format(type_id);
  check(format != nullptr && out.ndim() == 2 && out.shape(0) == ids.size(), "one row for each id is wanted");
  const auto n_in = static_cast<int64_t>(out.shape(1));
  const int64_t n_rows = static_cast<int64_t>(table.size()) / (n_in / format->block_elements * format->block_bytes);
  for (size_t i = 0; i < ids.size(); ++i) check(ids.data()[i] >= 0 && ids.data()[i] < n_rows, "an id lies outside the table");
  engine.embed(*format, table.data(), n_in, ids.data(), static_cast<int64_t>(ids.size()), out.data());
}

samovar::Product product(const Input& x, const Linear& weight, const Output& out) {
  const samovar::WeightView& view = weight.packed.view;
  check(x.ndim() == 2 && last_axis(x) == view.n_in &&
            static_cast<int64_t>(out.size()) == static_cast<int64_t>(x.shape(0)) * view.n_out,
        "input, weight and output do not fit each other");
  return {&view, out.data()};
}

void linear(Engine& engine, const Input& x, const Linear& weight, const Output& out) {
  const samovar::Product one = product(x, weight, out);
  engine.linears(x.data(), static_cast<int64_t>(x.shape(0)), last_axis(x), {&one, 1});
}

void linears(Engine& engine, const Input& x, const nb::tuple& weights, const nb::list& outs) {
  std::vector<samovar::Product> products;
  const size_t n = nb::len(weights);
  check(nb::len(outs) == n, "one output for each weight is wanted");
  products.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    products.push_back(product(x, nb::cast<const Linear&>(weights[i], false), nb::cast<Output>(outs[i], false)));
  }
  const nb::gil_scoped_release release;
  engine.linears(x.data(), static_cast<int64_t>(x.shape(0)), last_axis(x), products);
}

void rms_norm(Engine& engine, const Input& x, const Array<const float, nb::ndim<1>>& weight, float eps, Output out) {
  const int64_t n_in = last_axis(x);
  check(static_cast<int64_t>(weight.size()) == n_in && out.size() == x.size(),
        "input, weight and output do not fit each other");
  engine.rms_norm(x.data(), weight.data(), eps, static_cast<int64_t>(x.size()) / n_in, n_in, out.data());
}

void rope(Engine& engine, const Array<const float, nb::ndim<3>>& x, const Array<const float, nb::ndim<2>>& cos,
          const Array<const float, nb::ndim<2>>& sin, Output out) {
  check(cos.shape(0) == x.shape(0) && sin.shape(0) == x.shape(0) && sin.shape(1) == cos.shape(1) &&
            2 * cos.shape(1) <= x.shape(2) && out.size() == x.size(),
        "heads and angles do not fit each other");
  engine.rope(x.data(), cos.data(), sin.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
              static_cast<int64_t>(x.shape(2)), static_cast<int64_t>(cos.shape(1)), out.data());
}

void silu_gate(Engine& engine, const Input& gate, const Input& up, Output out) {
  check(gate.size() == up.size() && gate.size() == out.size(), "gate, up and output are not of one size");
  engine.silu_gate(gate.data(), up.data(), static_cast<int64_t>(gate.size()), out.data());
}

samovar::KvView kv_view(int kind, const Pages& k, const Pages& v) {
  const size_t item_bytes = kind == 0 ? 4 : 2;
  check(kind >= 0 && kind <= 2 && k.itemsize() == item_bytes && v.itemsize() == item_bytes &&
            k.shape(3) == samovar::kPageTokens && v.shape(2) == samovar::kPageTokens && v.shape(0) == k.shape(0) &&
            v.shape(1) == k.shape(1) && v.shape(3) == k.shape(2),
        "pages of keys and values do not fit each other or their type");
  return {static_cast<samovar::KvKind>(kind), static_cast<int64_t>(k.shape(1)), static_cast<int64_t>(k.shape(2)),
          static_cast<uint8_t*>(k.data()), static_cast<uint8_t*>(v.data())};
}

void write_kv(Engine& engine, const Input& k, const Input& v, int kind, const Pages& k_pages, const Pages& v_pages,
              const Array<const int64_t, nb::ndim<1>>& slots) {
  const size_t n_values = slots.size() * k_pages.shape(1) * k_pages.shape(2);
  check(k.size() == n_values && v.size() == n_values, "keys, values and slots do not fit each other");
  const auto n_slots = static_cast<int64_t>(k_pages.shape(0)) * samovar::kPageTokens;
  for (size_t i = 0; i < slots.size(); ++i)
    check(slots.data()[i] >= 0 && slots.data()[i] < n_slots, "a slot lies outside the pages");
  engine.write_kv(k.data(), v.data(), kv_view(kind, k_pages, v_pages), slots.data(), static_cast<int64_t>(slots.size()));
}

void attention(Engine& engine, const Array<const float, nb::ndim<3>>& q, int kind, const Pages& k_pages, const Pages& v_pages,
               const Array<const int32_t, nb::ndim<1>>& row_starts, const Array<const int32_t, nb::ndim<1>>& positions,
               const Array<const int32_t, nb::ndim<2>>& page_tables, float scale, Output out) {
  const auto n_sequences = static_cast<int64_t>(positions.size()), width = static_cast<int64_t>(page_tables.shape(1));
  const int32_t *starts = row_starts.data(), *tables = page_tables.data();
  check(q.shape(2) == k_pages.shape(2) && k_pages.shape(1) > 0 && q.shape(1) % k_pages.shape(1) == 0 && out.size() == q.size(),
        "queries and pages do not fit each other");
  check(static_cast<int64_t>(row_starts.size()) == n_sequences + 1 &&
            static_cast<int64_t>(page_tables.shape(0)) == n_sequences && starts[0] == 0 &&
            starts[n_sequences] == static_cast<int64_t>(q.shape(0)),
        "spans do not cover the rows");
  for (int64_t s = 0; s < n_sequences; ++s) {
    const int64_t n_new = starts[s + 1] - starts[s],
                  n_pages = (positions.data()[s] + n_new + samovar::kPageTokens - 1) / samovar::kPageTokens;
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

void bind_cache(nb::module_& m);

NB_MODULE(_native, m) {
  bind_cache(m);
  m.def("available_isas", &samovar::available_isas, "Names of the instruction sets that this processor runs, best last.");
  nb::class_<Linear>(m, "NativeLinear", "A packed weight [n_out, n_in].")
      .def_prop_ro("n_out", [](const Linear& w) { return w.packed.view.n_out; })
      .def_prop_ro("n_in", [](const Linear& w) { return w.packed.view.n_in; })
      .def_prop_ro("size_bytes", [](const Linear& w) { return w.packed.size_bytes; });

  using Free = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Engine> engine(m, "Engine", "Kernels of one instruction set, a thread pool, and memory for weights.");
  bind_sample(engine);
  engine
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
      .def("linear", &linear, "x"_a.noconvert(), "weight"_a, "out"_a.noconvert(), Free(),
           "out [T, N] = x [T, D] times weight [N, D].")
      .def("linears", &linears, "x"_a.noconvert(), "weights"_a, "outs"_a, "linear, for several weights and outputs.")
      .def("rms_norm", &rms_norm, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a, "out"_a.noconvert(), Free(),
           "x and out [..., D], weight [D].")
      .def("rope", &rope, "x"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(), "out"_a.noconvert(), Free(),
           "x and out [T, H, K], cos and sin [T, R].")
      .def("silu_gate", &silu_gate, "gate"_a.noconvert(), "up"_a.noconvert(), "out"_a.noconvert(), Free(), "All of one shape.")
      .def("write_kv", &write_kv, "k"_a.noconvert(), "v"_a.noconvert(), "kind"_a, "k_pages"_a.noconvert(),
           "v_pages"_a.noconvert(), "slots"_a.noconvert(), Free(),
           "k and v [T, G, K] into pages [P, G, K, B] and [P, G, B, K]; kind 0 f32, 1 f16, 2 bf16.")
      .def("attention", &attention, "q"_a.noconvert(), "kind"_a, "k_pages"_a.noconvert(), "v_pages"_a.noconvert(),
           "row_starts"_a.noconvert(), "positions"_a.noconvert(), "page_tables"_a.noconvert(), "scale"_a, "out"_a.noconvert(),
           Free(), "q and out [T, H, K]; row_starts [S + 1], positions [S], page_tables [S, width].");
}
