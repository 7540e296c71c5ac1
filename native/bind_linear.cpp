#include "bind_linear.h"

#include <algorithm>
#include <span>

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = decltype(Linear::adopted);
using Order = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu, nb::ndim<1>>;

void check(bool is_sound, const char* what) {
  if (!is_sound) throw nb::value_error(what);
}

void adopt(Linear& weight, const Bytes& data) {
  check(static_cast<int64_t>(data.size()) == weight.packed.size_bytes && reinterpret_cast<uintptr_t>(data.data()) % 64 == 0,
        "packed bytes of another size or alignment than the weight's");
  weight.adopted = data;
  weight.packed.adopt(data.data());
  for (int64_t i = 0; weight.packed.has_order && i < weight.packed.n_stacked; ++i) {
    check(samovar::is_order(weight.packed.member(i).order, weight.packed.view.n_in), "an order of inputs that a weight does not have");
  }
}

// The order of inputs that a weight is packed with, or null where it has none.
const int32_t* checked_order(const Linear& weight, const Order& order) {
  const bool is_given = order.is_valid();
  const int64_t n_in = weight.packed.view.n_in;
  check(is_given == weight.packed.has_order, "an order of inputs is wanted exactly where the weight was made for one");
  check(!is_given || (static_cast<int64_t>(order.size()) == n_in && samovar::is_order(order.data(), n_in)),
        "an order of inputs that a weight does not have");
  return is_given ? order.data() : nullptr;
}

// Keep the codebook of a type: entries of codes, one byte each.
void take_codebook(samovar::Engine& engine, int type_id, const Bytes& codes) {
  const samovar::Format* format = samovar::find_format(type_id);
  check(format != nullptr, "no stored type");
  const samovar::Codebook shape = samovar::codebook_of(format->type);
  check(shape.size() > 0 && shape.size() == static_cast<int64_t>(codes.size()), "a codebook of another size than the type's");
  const std::span<const uint8_t> all(codes.data(), codes.size());
  check(std::all_of(all.begin(), all.end(), [&](uint8_t code) { return code <= shape.largest_code; }), "a code that the type does not have");
  engine.take_codebook(*format, all);
}

// The members of a stack that `stored` holds the rows of, in `format`, all in one `order` of inputs; `first` is the first of them.
samovar::Members members(const samovar::Engine& engine, const Linear& weight, const samovar::Format& format, const Bytes& stored, int64_t first, const Order& order) {
  const samovar::WeightView& w = weight.packed.view;
  check(w.n_in % format.block_elements == 0, "a weight's type and shape do not agree");
  const int64_t member_bytes = w.n_out * (w.n_in / format.block_elements) * format.block_bytes;
  const auto size = static_cast<int64_t>(stored.size()), count = size / member_bytes;
  check(size > 0 && size % member_bytes == 0 && first >= 0 && first <= weight.packed.n_stacked - count,
        "a weight's type, shape and bytes do not agree");
  const uint8_t* codebook = engine.codebook(format);
  check(codebook != nullptr || samovar::codebook_of(format.type).size() == 0, "a type's codebook is missing");
  return {first, count, {stored.data(), stored.size()}, checked_order(weight, order), codebook};
}

bool pack(samovar::Engine& engine, Linear& weight, const Bytes& stored, int64_t first, const Order& order) {
  check(!weight.packed.view.format->is_int4(), "int4 weights are packed by pack_int4");
  return engine.pack(weight.packed, members(engine, weight, *weight.packed.view.format, stored, first, order));
}

bool pack_int4(samovar::Engine& engine, Linear& weight, int type_id, const Bytes& stored, int64_t first, const Order& order) {
  const samovar::Format* format = samovar::find_format(type_id);
  check(format != nullptr && !format->is_int4() && weight.packed.view.format->is_int4(), "no int4 weight, or no stored type");
  return engine.pack_int4(weight.packed, *format, members(engine, weight, *format, stored, first, order));
}

void quantise(samovar::Engine& engine, int type_id, const nb::ndarray<const float, nb::c_contig, nb::device::cpu, nb::ndim<2>>& x,
              const nb::ndarray<const float, nb::c_contig, nb::device::cpu, nb::ndim<1>>& importance,
              const nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu, nb::ndim<2>>& out) {
  const samovar::Format* format = samovar::find_format(type_id);
  const auto n_rows = static_cast<int64_t>(x.shape(0)), n_in = static_cast<int64_t>(x.shape(1));
  check(format != nullptr && n_in % format->block_elements == 0 && static_cast<int64_t>(importance.size()) == n_in &&
            static_cast<int64_t>(out.shape(0)) == n_rows &&
            static_cast<int64_t>(out.shape(1)) == n_in / format->block_elements * format->block_bytes,
        "rows, importance and blocks do not fit each other");
  check(engine.quantise(*format, x.data(), importance.data(), n_rows, n_in, out.data()), "no type that rows are quantised to");
}

}  // namespace

const samovar::WeightView& Linear::view() const {
  check(stack().n_stacked == 1, "a stack of weights is used as one weight");
  return packed.view;
}

const samovar::PackedLinear& Linear::stack() const {
  check(packed.is_packed(), "a weight is used before it is packed");
  return packed;
}

void bind_linear(nb::module_& m, nb::class_<samovar::Engine>& engine) {
  m.attr("int4_id") = static_cast<int>(samovar::Type::kInt4);
  m.attr("packed_layout") = samovar::kPackedLayout;
  nb::class_<Linear>(m, "NativeLinear", "A packed weight [n_out, n_in], or a stack of n_stacked such; empty until it is packed, or adopts packed bytes.")
      .def(
          "__init__",
          [](Linear* self, int type_id, int64_t n_out, int64_t n_in, int64_t n_stacked, bool has_order) {
            const samovar::Format* format = samovar::find_format(type_id);
            const bool is_shape = format != nullptr && n_out > 0 && n_in > 0 && n_stacked > 0 && n_in % format->block_elements == 0;
            check(is_shape && (!format->is_int4() || n_in <= samovar::kMostInt4), "no weight has this shape");
            new (self) Linear{samovar::PackedLinear(*format, n_out, n_in, n_stacked, has_order), {}};
          },
          "type_id"_a, "n_out"_a, "n_in"_a, "n_stacked"_a = 1, "has_order"_a = false)
      .def_prop_ro("n_out", [](const Linear& w) { return w.packed.view.n_out; })
      .def_prop_ro("n_in", [](const Linear& w) { return w.packed.view.n_in; })
      .def_prop_ro("n_stacked", [](const Linear& w) { return w.packed.n_stacked; })
      .def_prop_ro("is_int4", [](const Linear& w) { return w.packed.view.format->is_int4(); })
      .def_prop_ro("size_bytes", [](const Linear& w) { return w.packed.size_bytes; })
      .def(
          "packed_bytes",
          [](nb::handle self) {
            const auto& w = nb::cast<const Linear&>(self);
            w.stack();
            return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(w.packed.data(), {static_cast<size_t>(w.packed.size_bytes)},
                                                                      self);
          },
          "The packed form as it lies in memory.")
      .def("adopt", &adopt, "data"_a.noconvert(),
           "Compute on packed bytes of the caller's; at least 4 KiB behind them can be read.");
  engine.def("pack", &pack, "weight"_a, "stored"_a.noconvert(), "first"_a = 0, "order"_a.noconvert().none() = nb::none(),
             nb::call_guard<nb::gil_scoped_release>(),
             "Pack the blocks of a weight's rows and the order of its inputs; of a stack, of the members from `first` that they are "
             "enough for. Whether all their scales are finite.");
  engine.def("take_codebook", &take_codebook, "type_id"_a, "codes"_a.noconvert(),
             "Keep the codebook of a type, its entries one after the other; it is wanted before such a type is packed or embedded.");
  engine.def("quantise", &quantise, "type_id"_a, "x"_a.noconvert(), "importance"_a.noconvert(), "out"_a.noconvert(),
             nb::call_guard<nb::gil_scoped_release>(),
             "Blocks out [N, row bytes] of the rows x [N, K], with an importance [K] of each column.");
  engine.def("pack_int4", &pack_int4, "weight"_a, "type_id"_a, "stored"_a.noconvert(), "first"_a = 0, "order"_a.noconvert().none() = nb::none(),
             nb::call_guard<nb::gil_scoped_release>(),
             "Round rows stored in another type to int4; whether all their values are finite.");
}
