// The bindings of gated delta nets: checks the lengths of all arrays, and in each call the rows and slots of the sequences.
#include "bind_delta_net.h"

#include "issue.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using samovar::Engine;
using Vector = Array<const float, nb::ndim<1>>;
using Rows = Array<const float, nb::ndim<2>>;
using Output = Array<float>;
using Numbers = Array<const int32_t, nb::ndim<1>>;

samovar::SpanView span_view(const Numbers& row_starts, const Numbers& positions, const Numbers& slots) {
  check(row_starts.size() == positions.size() + 1 && slots.size() == positions.size(), "each sequence has rows and a slot");
  return {row_starts.data(), positions.data(), nullptr, static_cast<int64_t>(positions.size()), 0};
}

// Rows follow each other, and no two sequences have one slot: they are computed at once.
void check_slots(const samovar::SpanView& spans, const int32_t* slots, int64_t n_rows, int64_t n_slots) {
  check(spans.row_starts[0] == 0 && spans.row_starts[spans.n_sequences] == n_rows, "spans do not cover the rows");
  for (int64_t s = 0; s < spans.n_sequences; ++s) {
    check(spans.row_starts[s + 1] >= spans.row_starts[s] && spans.positions[s] >= 0, "a sequence has no such rows");
    check(slots[s] >= 0 && slots[s] < n_slots, "no such slot");
    for (int64_t other = 0; other < s; ++other) check(slots[other] != slots[s], "two sequences have one slot");
  }
}

template <class Target>
void sigmoid_gate(Target& target, const Array<const float>& gate, const Array<const float>& x, Output out) {
  check(gate.size() > 0 && x.size() % gate.size() == 0 && x.size() == out.size(), "gate, x and output do not fit each other");
  const auto n_gates = static_cast<int64_t>(gate.size()), n_each = static_cast<int64_t>(x.size() / gate.size());
  issue(target, [=, gate = gate.data(), x = x.data(), out = out.data()](Engine& engine) {
    engine.sigmoid_gate(gate, x, n_gates, n_each, out);
  });
}

template <class Target>
void convolve(Target& target, const Rows& x, const Rows& taps, Array<float, nb::ndim<3>> inputs, const Numbers& row_starts,
              const Numbers& positions, const Numbers& slots, Output out) {
  const samovar::SpanView spans = span_view(row_starts, positions, slots);
  const auto n_rows = static_cast<int64_t>(x.shape(0)), n_channels = static_cast<int64_t>(x.shape(1)),
             n_taps = static_cast<int64_t>(taps.shape(0)), n_slots = static_cast<int64_t>(inputs.shape(0));
  check(n_taps > 1 && n_taps <= samovar::kMostTaps && static_cast<int64_t>(inputs.shape(1)) == n_taps - 1 &&
            taps.shape(1) == x.shape(1) && inputs.shape(2) == x.shape(1) && out.size() == x.size() && out.data() != x.data(),
        "x, taps, kept inputs and output do not fit each other");
  const samovar::StateView states{inputs.data(), nullptr, slots.data()};
  issue(target, [=, x = x.data(), taps = taps.data(), out = out.data()](Engine& engine) {
    check_slots(spans, states.slots, n_rows, n_slots);
    engine.convolve(x, taps, n_taps, n_channels, spans, states, out);
  });
}

template <class Target>
void delta_rule(Target& target, const Rows& x, const Rows& gates, const Vector& rate, const Vector& bias,
                Array<float, nb::ndim<4>> memories, const Numbers& row_starts, const Numbers& positions, const Numbers& slots,
                Array<float, nb::ndim<3>> out) {
  const samovar::SpanView spans = span_view(row_starts, positions, slots);
  const size_t n_heads = memories.shape(1), d_key = memories.shape(2), d_value = memories.shape(3), d_values = n_heads * d_value;
  check(d_key > 0 && d_key <= static_cast<size_t>(samovar::kMostKeyWidth) && d_values > 0 && x.shape(1) > d_values &&
            (x.shape(1) - d_values) % (2 * d_key) == 0 && n_heads % ((x.shape(1) - d_values) / (2 * d_key)) == 0,
        "x and memories do not fit each other");
  check(gates.shape(0) == x.shape(0) && gates.shape(1) == 2 * n_heads && rate.size() == n_heads && bias.size() == n_heads &&
            out.shape(0) == x.shape(0) && out.shape(1) == n_heads && out.shape(2) == d_value,
        "gates, rates, biases and output do not fit the heads");
  const samovar::DeltaView rows{x.data(),
                                gates.data(),
                                rate.data(),
                                bias.data(),
                                out.data(),
                                static_cast<int64_t>((x.shape(1) - d_values) / (2 * d_key)),
                                static_cast<int64_t>(n_heads),
                                static_cast<int64_t>(d_key),
                                static_cast<int64_t>(d_value)};
  const samovar::StateView states{nullptr, memories.data(), slots.data()};
  issue(target, [=, n_rows = static_cast<int64_t>(x.shape(0)), n_slots = static_cast<int64_t>(memories.shape(0))](Engine& engine) {
    check_slots(spans, states.slots, n_rows, n_slots);
    engine.delta_rule(rows, spans, states);
  });
}

template <class Target>
void bind(nb::class_<Target>& target) {
  using Free = nb::call_guard<nb::gil_scoped_release>;
  target
      .def("sigmoid_gate", &sigmoid_gate<Target>, "gate"_a.noconvert(), "x"_a.noconvert(), "out"_a.noconvert(), Free(),
           "x and out of one size, a multiple of the gate's: each gate is that of neighbours.")
      .def("convolve", &convolve<Target>, "x"_a.noconvert(), "taps"_a.noconvert(), "inputs"_a.noconvert(), "row_starts"_a.noconvert(),
           "positions"_a.noconvert(), "slots"_a.noconvert(), "out"_a.noconvert(), Free(),
           "x and out [T, M], taps [J, M], inputs [Z, J - 1, M]; row_starts [S + 1], positions and slots [S].")
      .def("delta_rule", &delta_rule<Target>, "x"_a.noconvert(), "gates"_a.noconvert(), "rate"_a.noconvert(), "bias"_a.noconvert(),
           "memories"_a.noconvert(), "row_starts"_a.noconvert(), "positions"_a.noconvert(), "slots"_a.noconvert(), "out"_a.noconvert(),
           Free(), "x [T, M], gates [T, 2 H], rate and bias [H], memories [Z, H, K, U], out [T, H, U].");
}

}  // namespace

void bind_delta_net(nb::class_<Engine>& engine, nb::class_<samovar::Program>& program) {
  bind(engine);
  bind(program);
}
