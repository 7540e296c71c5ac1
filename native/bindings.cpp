// samovar._native: one method per operation, of the engine and of programs. Arrays are checked here for dtype, rank, contiguity and lengths that must agree
// (in Python that would cost more than a small operation does); samovar.kernels.native checks the rest and allocates outputs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bind_delta_net.h"
#include "bind_linear.h"
#include "bind_sample.h"
#include "cpu.h"
#include "issue.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using samovar::Engine;
using samovar::Program;

using Input = Array<const float>;
using Output = Array<float>;
using Pages = nb::ndarray<nb::c_contig, nb::device::cpu, nb::ndim<4>>;
using Scales = Array<float, nb::ndim<3>>;

int64_t last_axis(const Input& x) { return static_cast<int64_t>(x.shape(x.ndim() - 1)); }

template <class Target>
void embed(Target& target, int type_id, const Array<const uint8_t, nb::ndim<1>>& table,
           const Array<const int64_t, nb::ndim<1>>& ids, float scale, Output out) {
  const samovar::Format* format = samovar::find_format(type_id);
  check(format != nullptr && out.ndim() == 2 && out.shape(0) == ids.size(), "one row for each id is wanted");
  const auto n_in = static_cast<int64_t>(out.shape(1)), n_ids = static_cast<int64_t>(ids.size());
  const int64_t n_rows = static_cast<int64_t>(table.size()) / (n_in / format->block_elements * format->block_bytes);
  issue(target, [=, table = table.data(), ids = ids.data(), out = out.data()](Engine& engine) {
    check(samovar::codebook_of(format->type).size() == 0 || engine.codebook(*format) != nullptr, "a type's codebook is missing");
    for (int64_t i = 0; i < n_ids; ++i) check(ids[i] >= 0 && ids[i] < n_rows, "an id lies outside the table");
    engine.embed(*format, table, n_in, ids, n_ids, scale, out);
  });
}

// `norm` [D] makes the rows rms_norm(x), `gate` [T, D] makes them silu(gate) * x, or gelu(gate) * x; neither leaves x.
template <class Target>
void linears(Target& target, const Input& x, const nb::tuple& weights, const nb::tuple& biases, const nb::tuple& outs,
             const Input& residual, const Input& norm, float eps, const Input& gate, bool is_gelu) {
  const size_t n = nb::len(weights);
  check(nb::len(outs) == n && nb::len(biases) == n, "one output and one bias or None for each weight is wanted");
  check(x.ndim() == 2 && (!norm.is_valid() || !gate.is_valid()), "rows of x are wanted, with a norm or a gate");
  const auto n_rows = static_cast<int64_t>(x.shape(0)), n_in = last_axis(x);
  samovar::Rows rows{samovar::Rows::kPlain, x.data(), nullptr, eps};
  if (norm.is_valid()) {
    check(static_cast<int64_t>(norm.size()) == n_in, "input and norm do not fit each other");
    rows = {samovar::Rows::kNormed, x.data(), norm.data(), eps};
  } else if (gate.is_valid()) {
    check(gate.size() == x.size(), "gate and input are not of one size");
    rows = {is_gelu ? samovar::Rows::kGeluGated : samovar::Rows::kGated, gate.data(), x.data(), eps};
  }
  std::vector<samovar::Product> products;
  products.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const samovar::WeightView& weight = nb::cast<const Linear&>(weights[i], false).view();
    const auto out = nb::cast<Output>(outs[i], false);
    const auto bias = biases[i].is_none() ? Input() : nb::cast<Input>(biases[i], false);
    check(weight.n_in == n_in && static_cast<int64_t>(out.size()) == n_rows * weight.n_out &&
              (!bias.is_valid() || static_cast<int64_t>(bias.size()) == weight.n_out) &&
              (!residual.is_valid() || residual.size() == out.size()),
          "input, weight and output do not fit each other");
    products.push_back({weight, out.data(), bias.is_valid() ? bias.data() : nullptr,
                        residual.is_valid() ? residual.data() : nullptr});
  }
  const nb::gil_scoped_release release;
  issue(target, [=](Engine& engine) { engine.linears(rows, n_rows, n_in, products); });
}

template <class Target>
void rms_norm(Target& target, const Input& x, const Array<const float, nb::ndim<1>>& weight, float eps, Output out) {
  const int64_t n_in = last_axis(x), n_rows = static_cast<int64_t>(x.size()) / n_in;
  check(static_cast<int64_t>(weight.size()) == n_in && out.size() == x.size(),
        "input, weight and output do not fit each other");
  issue(target, [=, x = x.data(), weight = weight.data(), out = out.data()](Engine& engine) {
    engine.rms_norm(x, weight, eps, n_rows, n_in, out);
  });
}

template <class Target>
void rope(Target& target, const Array<const float, nb::ndim<3>>& x, const Array<const float, nb::ndim<2>>& cos,
          const Array<const float, nb::ndim<2>>& sin, Output out) {
  check(cos.shape(0) == x.shape(0) && sin.shape(0) == x.shape(0) && sin.shape(1) == cos.shape(1) &&
            2 * cos.shape(1) <= x.shape(2) && out.size() == x.size(),
        "heads and angles do not fit each other");
  const auto n_tokens = static_cast<int64_t>(x.shape(0)), n_heads = static_cast<int64_t>(x.shape(1)),
             d_head = static_cast<int64_t>(x.shape(2)), n_pairs = static_cast<int64_t>(cos.shape(1));
  issue(target, [=, x = x.data(), cos = cos.data(), sin = sin.data(), out = out.data()](Engine& engine) {
    engine.rope(x, cos, sin, n_tokens, n_heads, d_head, n_pairs, out);
  });
}

template <class Target>
void silu_gate(Target& target, const Input& gate, const Input& up, Output out) {
  check(gate.size() == up.size() && gate.size() == out.size(), "gate, up and output are not of one size");
  issue(target, [n = static_cast<int64_t>(gate.size()), gate = gate.data(), up = up.data(), out = out.data()](Engine& engine) {
    engine.silu_gate(gate, up, n, out);
  });
}

template <class Target>
void gelu_gate(Target& target, const Input& gate, const Input& up, Output out) {
  check(gate.size() == up.size() && gate.size() == out.size(), "gate, up and output are not of one size");
  issue(target, [n = static_cast<int64_t>(gate.size()), gate = gate.data(), up = up.data(), out = out.data()](Engine& engine) {
    engine.gelu_gate(gate, up, n, out);
  });
}

template <class Target>
void accumulate(Target& target, const Input& x, Output out) {
  check(x.size() == out.size(), "input and output are not of one size");
  issue(target, [n = static_cast<int64_t>(x.size()), x = x.data(), out = out.data()](Engine& engine) { engine.accumulate(x, n, out); });
}

template <class Target>
void route(Target& target, const Array<const float, nb::ndim<2>>& logits, bool is_renormalised, Array<int32_t, nb::ndim<2>> ids,
           Array<float, nb::ndim<2>> weights) {
  const auto n_rows = static_cast<int64_t>(logits.shape(0)), n_experts = static_cast<int64_t>(logits.shape(1)),
             n_chosen = static_cast<int64_t>(ids.shape(1));
  check(ids.shape(0) == logits.shape(0) && n_chosen > 0 && n_chosen <= n_experts && weights.shape(0) == ids.shape(0) &&
            weights.shape(1) == ids.shape(1),
        "logits, ids and weights do not fit each other");
  issue(target, [=, logits = logits.data(), ids = ids.data(), weights = weights.data()](Engine& engine) {
    engine.route(logits, n_rows, n_experts, n_chosen, is_renormalised, ids, weights);
  });
}

template <class Target>
void experts(Target& target, const Array<const float, nb::ndim<2>>& x, const Linear& gate, const Linear& up, const Linear& down,
             const Array<const int32_t, nb::ndim<2>>& ids, const Array<const float, nb::ndim<2>>& weights, const Input& residual,
             Output out) {
  const samovar::ExpertsView view{&gate.stack(), &up.stack(), &down.stack()};
  const samovar::WeightView &g = view.gate->view, &u = view.up->view, &d = view.down->view;
  const int64_t n_experts = view.gate->n_stacked, n_rows = static_cast<int64_t>(x.shape(0));
  check(view.up->n_stacked == n_experts && view.down->n_stacked == n_experts && u.n_out == g.n_out && u.n_in == g.n_in &&
            d.n_out == g.n_in && d.n_in == g.n_out && static_cast<int64_t>(x.shape(1)) == g.n_in,
        "input and experts do not fit each other");
  check(out.size() == x.size() && residual.size() == x.size() && static_cast<int64_t>(ids.shape(0)) == n_rows &&
            ids.shape(0) == weights.shape(0) && ids.shape(1) == weights.shape(1),
        "input, choice, residual and output do not fit each other");
  const samovar::Chosen chosen{ids.data(), weights.data(), static_cast<int64_t>(ids.shape(1))};
  issue(target, [=, x = x.data(), residual = residual.data(), out = out.data()](Engine& engine) {
    for (int64_t i = 0; i < n_rows * chosen.n_chosen; ++i) check(chosen.ids[i] >= 0 && chosen.ids[i] < n_experts, "there is no such expert");
    engine.experts(x, n_rows, view, chosen, residual, out);
  });
}

samovar::KvView kv_view(int kind, const Pages& k, const Pages& v, const Scales& k_scale, const Scales& v_scale) {
  const size_t item_bytes = kind == 0 ? 4 : kind == 3 ? 1 : 2;
  check(kind >= 0 && kind <= 3 && k.itemsize() == item_bytes && v.itemsize() == item_bytes &&
            k.shape(3) == samovar::kPageTokens && v.shape(2) == samovar::kPageTokens && v.shape(0) == k.shape(0) &&
            v.shape(1) == k.shape(1) && v.shape(3) == k.shape(2),
        "pages of keys and values do not fit each other or their type");
  const size_t n_scales = kind == 3 ? k.shape(0) * k.shape(1) * k.shape(3) : 0;
  check(n_scales == k_scale.size() && n_scales == v_scale.size(), "int8 pages need a scale for each token and head, others none");
  const bool has_scales = kind == 3;
  return {static_cast<samovar::KvKind>(kind),
          static_cast<int64_t>(k.shape(1)),
          static_cast<int64_t>(k.shape(2)),
          static_cast<uint8_t*>(k.data()),
          static_cast<uint8_t*>(v.data()),
          has_scales ? k_scale.data() : nullptr,
          has_scales ? v_scale.data() : nullptr};
}

template <class Target>
void write_kv(Target& target, const Input& k, const Input& v, int kind, const Pages& k_pages, const Pages& v_pages,
              const Scales& k_scale, const Scales& v_scale, const Array<const int64_t, nb::ndim<1>>& slots) {
  const samovar::KvView kv = kv_view(kind, k_pages, v_pages, k_scale, v_scale);
  const auto n_tokens = static_cast<int64_t>(slots.size()), n_values = n_tokens * kv.n_kv_heads * kv.d_head;
  check(static_cast<int64_t>(k.size()) == n_values && static_cast<int64_t>(v.size()) == n_values,
        "keys, values and slots do not fit each other");
  const auto n_slots = static_cast<int64_t>(k_pages.shape(0)) * samovar::kPageTokens;
  issue(target, [=, k = k.data(), v = v.data(), slots = slots.data()](Engine& engine) {
    for (int64_t t = 0; t < n_tokens; ++t) check(slots[t] >= 0 && slots[t] < n_slots, "a slot lies outside the pages");
    engine.write_kv(k, v, kv, slots, n_tokens);
  });
}

void check_spans(const samovar::SpanView& spans, int64_t n_rows, int64_t n_pages) {
  check(spans.row_starts[0] == 0 && spans.row_starts[spans.n_sequences] == n_rows, "spans do not cover the rows");
  for (int64_t s = 0; s < spans.n_sequences; ++s) {
    const int64_t n_new = spans.row_starts[s + 1] - spans.row_starts[s];
    const int64_t n_used = (spans.positions[s] + n_new + samovar::kPageTokens - 1) / samovar::kPageTokens;
    check(n_new >= 0 && spans.positions[s] >= 0 && n_used <= spans.table_width, "a sequence is longer than its page table");
    for (int64_t p = 0; p < n_used; ++p) {
      const int32_t page = spans.page_tables[s * spans.table_width + p];
      check(page >= 0 && page < n_pages, "no such page");
    }
  }
}

template <class Target>
void attention(Target& target, const Array<const float, nb::ndim<3>>& q, int kind, const Pages& k_pages, const Pages& v_pages,
               const Scales& k_scale, const Scales& v_scale, const Array<const int32_t, nb::ndim<1>>& row_starts,
               const Array<const int32_t, nb::ndim<1>>& positions,
               const Array<const int32_t, nb::ndim<2>>& page_tables, float scale, int64_t window, Output out) {
  const samovar::KvView kv = kv_view(kind, k_pages, v_pages, k_scale, v_scale);
  const samovar::SpanView spans{row_starts.data(), positions.data(), page_tables.data(), static_cast<int64_t>(positions.size()),
                                static_cast<int64_t>(page_tables.shape(1))};
  check(q.shape(2) == k_pages.shape(2) && k_pages.shape(1) > 0 && q.shape(1) % k_pages.shape(1) == 0 && out.size() == q.size(),
        "queries and pages do not fit each other");
  check(window > 0, "a row sees its own key");
  check(row_starts.size() == positions.size() + 1 && page_tables.shape(0) == positions.size(), "spans do not cover the rows");
  const auto n_rows = static_cast<int64_t>(q.shape(0)), n_heads = static_cast<int64_t>(q.shape(1)),
             n_pages = static_cast<int64_t>(k_pages.shape(0));
  issue(target, [=, q = q.data(), out = out.data()](Engine& engine) {
    check_spans(spans, n_rows, n_pages);
    engine.attention(q, n_heads, kv, spans, scale, window, out);
  });
}

// The operations, as methods of the engine and of a program alike.
template <class Target>
void bind_ops(nb::class_<Target>& target) {
  using Free = nb::call_guard<nb::gil_scoped_release>;
  target
      .def("embed", &embed<Target>, "type_id"_a, "table"_a.noconvert(), "ids"_a.noconvert(), "scale"_a, "out"_a.noconvert(), Free(),
           "out [T, D] = rows ids [T] of a stored [V, D] table, times the scale.")
      .def("linears", &linears<Target>, "x"_a.noconvert(), "weights"_a, "biases"_a, "outs"_a, "residual"_a.noconvert().none(),
           "norm"_a.noconvert().none(), "eps"_a, "gate"_a.noconvert().none(), "is_gelu"_a,
           "Each out [T, N] = residual + (rows times weight [N, D] + bias); rows: x [T, D], rms_norm(x), or silu(gate) * x or gelu(gate) * x.")
      .def("rms_norm", &rms_norm<Target>, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a, "out"_a.noconvert(), Free(),
           "x and out [..., D], weight [D].")
      .def("rope", &rope<Target>, "x"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(), "out"_a.noconvert(), Free(),
           "x and out [T, H, K], cos and sin [T, R].")
      .def("silu_gate", &silu_gate<Target>, "gate"_a.noconvert(), "up"_a.noconvert(), "out"_a.noconvert(), Free(),
           "All of one shape.")
      .def("gelu_gate", &gelu_gate<Target>, "gate"_a.noconvert(), "up"_a.noconvert(), "out"_a.noconvert(), Free(),
           "All of one shape.")
      .def("route", &route<Target>, "logits"_a.noconvert(), "is_renormalised"_a, "ids"_a.noconvert(), "weights"_a.noconvert(), Free(),
           "ids and weights [T, C] of the largest of logits [T, E].")
      .def("experts", &experts<Target>, "x"_a.noconvert(), "gate"_a, "up"_a, "down"_a, "ids"_a.noconvert(), "weights"_a.noconvert(),
           "residual"_a.noconvert(), "out"_a.noconvert(), Free(),
           "out [T, D] = residual [T, D] + the experts ids [T, C] of x [T, D], times their weights [T, C].")
      .def("accumulate", &accumulate<Target>, "x"_a.noconvert(), "out"_a.noconvert(), Free(), "out += x, all of one shape.")
      .def("write_kv", &write_kv<Target>, "k"_a.noconvert(), "v"_a.noconvert(), "kind"_a, "k_pages"_a.noconvert(),
           "v_pages"_a.noconvert(), "k_scale"_a.noconvert(), "v_scale"_a.noconvert(), "slots"_a.noconvert(), Free(),
           "k and v [T, G, K] into pages [P, G, K, B] and [P, G, B, K]; kind 0 f32, 1 f16, 2 bf16, 3 int8 with scales [P, G, B].")
      .def("attention", &attention<Target>, "q"_a.noconvert(), "kind"_a, "k_pages"_a.noconvert(), "v_pages"_a.noconvert(),
           "k_scale"_a.noconvert(), "v_scale"_a.noconvert(), "row_starts"_a.noconvert(), "positions"_a.noconvert(), "page_tables"_a.noconvert(), "scale"_a, "window"_a, "out"_a.noconvert(),
           Free(), "q and out [T, H, K]; row_starts [S + 1], positions [S], page_tables [S, width].");
}

}  // namespace

void bind_bpe(nb::module_& m);
void bind_cache(nb::module_& m);
void bind_limits(nb::module_& m);

NB_MODULE(_native, m) {
  // An error may end the program while a model is still held by the error's traceback; that is no news for a user.
  nb::set_leak_warnings(false);
  bind_bpe(m);
  bind_cache(m);
  bind_limits(m);
  m.def("available_isas", &samovar::available_isas, "Names of the instruction sets that this processor runs, best last.");
  m.def("isa_warning", &samovar::isa_warning, "Why an instruction set that this processor has is not used; empty if none is.");

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
      .def_prop_ro("native_seconds", &Engine::seconds, "Time spent in operations so far.");
  bind_linear(m, engine);
  bind_ops(engine);
  nb::class_<Program> program(m, "Program", "Calls of an engine's operations, to be run together.");
  program.def(nb::init<Engine&>(), "engine"_a, nb::keep_alive<1, 2>())
      .def("run", [](const Program& p) { issue(p.engine(), [&](Engine&) { p.run(); }); }, Free())
      .def("__len__", &Program::size);
  bind_ops(program);
  bind_delta_net(engine, program);
}
