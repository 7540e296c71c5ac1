// The binding of sampling: checks the lengths of all arrays and that every listed id is in the vocabulary.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "bind_sample.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T, int kRank = 1>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu, nb::ndim<kRank>>;

void check(bool is_sound, const char* what) {
  if (!is_sound) throw nb::value_error(what);
}

void check_lists(const Array<const int64_t>& starts, const Array<const int64_t>& ids, size_t n_values, int64_t n_rows,
                 int64_t n_vocabulary) {
  const int64_t* at = starts.data();
  check(static_cast<int64_t>(starts.size()) == n_rows + 1 && at[0] == 0 && at[n_rows] == static_cast<int64_t>(ids.size()) &&
            n_values == ids.size(),
        "lists of ids do not fit their rows");
  for (int64_t s = 0; s < n_rows; ++s) check(at[s] <= at[s + 1], "lists of ids overlap");
  for (size_t i = 0; i < ids.size(); ++i) {
    check(ids.data()[i] >= 0 && ids.data()[i] < n_vocabulary, "an id lies outside the vocabulary");
  }
}

void sample(samovar::Engine& engine, const Array<const float, 2>& logits, const Array<const double>& temperature,
            const Array<const int64_t>& top_k, const Array<const double>& top_p, const Array<const double>& min_p,
            const Array<const float>& repetition, const Array<const float>& presence, const Array<const float>& frequency,
            const Array<const uint64_t>& seeds, const Array<const uint64_t>& positions,
            const Array<const int64_t>& seen_starts, const Array<const int64_t>& seen_ids,
            const Array<const int64_t>& seen_counts, const Array<const int64_t>& bias_starts,
            const Array<const int64_t>& bias_ids, const Array<const float>& bias_values,
            const std::optional<Array<const uint32_t, 2>>& mask, Array<int64_t> ids) {
  const size_t n_rows = logits.shape(0), n_vocabulary = logits.shape(1);
  const auto n = static_cast<int64_t>(n_rows), v = static_cast<int64_t>(n_vocabulary);
  for (const size_t length : {temperature.size(), top_k.size(), top_p.size(), min_p.size(), repetition.size(), presence.size(),
                              frequency.size(), seeds.size(), positions.size(), ids.size()}) {
    check(length == n_rows, "one value for each row is wanted");
  }
  check(v > 0 && v <= samovar::kMostSampled, "a row without logits, or with too many");
  check_lists(seen_starts, seen_ids, seen_counts.size(), n, v);
  check_lists(bias_starts, bias_ids, bias_values.size(), n, v);
  check(!mask || (mask->shape(0) == n_rows && mask->shape(1) == (n_vocabulary + 31) / 32), "the mask does not fit the logits");
  const samovar::Engine::Timer timer(engine);
  engine.sample(logits.data(),
                {n, v, temperature.data(), top_p.data(), min_p.data(), top_k.data(), repetition.data(), presence.data(),
                 frequency.data(), seeds.data(), positions.data(), seen_starts.data(), seen_ids.data(), seen_counts.data(),
                 bias_starts.data(), bias_ids.data(), bias_values.data(), mask ? mask->data() : nullptr},
                ids.data());
}

}  // namespace

void bind_sample(nb::class_<samovar::Engine>& engine) {
  engine.def("sample", &sample, "logits"_a.noconvert(), "temperature"_a.noconvert(), "top_k"_a.noconvert(),
             "top_p"_a.noconvert(), "min_p"_a.noconvert(), "repetition"_a.noconvert(), "presence"_a.noconvert(),
             "frequency"_a.noconvert(), "seeds"_a.noconvert(), "positions"_a.noconvert(), "seen_starts"_a.noconvert(),
             "seen_ids"_a.noconvert(), "seen_counts"_a.noconvert(), "bias_starts"_a.noconvert(), "bias_ids"_a.noconvert(),
             "bias_values"_a.noconvert(), "mask"_a.noconvert().none(), "ids"_a.noconvert(),
             nb::call_guard<nb::gil_scoped_release>(),
             "ids [S] chosen from logits [S, V]; -1: none allowed, -2: a NaN or infinity.");
}
