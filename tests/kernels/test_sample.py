"""Sampling: the native kernel against the NumPy definition, and the definition against numpy's generator and exponential."""

import numpy as np
import pytest

from samovar.errors import NoTokenLeft
from samovar.kernels.reference import ReferenceOps
from samovar.kernels.reference_sample import kept, uniform, weigh
from samovar.kernels.sample_batch import SampleBatch
from tests.kernels.native_cases import ISAS, ops_on
from tests.matrices import slow_but

needs_native = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
BACKENDS = ["numpy", *ISAS]
SIZES = (1, 2, 15, 17, 97, 1023, 1025, 5000, 40001)


def ops_of(backend, n_threads=1):
    return ReferenceOps() if backend == "numpy" else ops_on(backend, n_threads)


def batch_of(n_rows, *, seen=None, bias=None, mask=None, **values):
    """Plain rows; a single value holds for all of them. `seen` and `bias`: for each row, a dict of id to count or value."""
    defaults = {
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "seeds": 0, "positions": np.arange(n_rows),
    }  # fmt: skip
    types = {
        "top_k": np.int64,
        "seeds": np.uint64,
        "positions": np.uint64,
        "temperature": float,
        "top_p": float,
        "min_p": float,
    }
    arrays = {
        name: np.ascontiguousarray(np.broadcast_to(np.asarray(value).astype(types.get(name, np.float32)), n_rows))
        for name, value in (defaults | values).items()
    }
    lists = {}
    for name, dicts, value_name, dtype in (("seen", seen, "counts", np.int64), ("bias", bias, "values", np.float32)):
        dicts = dicts or [{}] * n_rows
        lists[f"{name}_starts"] = np.cumsum([0, *map(len, dicts)]).astype(np.int64)
        lists[f"{name}_ids"] = np.array([i for d in dicts for i in d], np.int64)
        lists[f"{name}_{value_name}"] = np.array([v for d in dicts for v in d.values()], dtype)
    return SampleBatch(**arrays, **lists, mask_SW=mask)


def random_rows(n_vocabulary, n_rows, seed):
    """Logits of many kinds (spread, flat, tied, with forbidden ids), and parameters over their whole ranges."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_rows, n_vocabulary)) * rng.choice([0, 1e-3, 1, 3, 50], (n_rows, 1))
    logits = np.where(rng.random((n_rows, 1)) < 0.4, np.round(logits), logits).astype(np.float32)
    forbidden = rng.random(logits.shape) < 0.5 * (rng.random((n_rows, 1)) < 0.2)
    forbidden[np.arange(n_rows), rng.integers(0, n_vocabulary, n_rows)] = False
    logits[forbidden] = -np.inf
    width = -(-n_vocabulary // 32)
    mask = rng.integers(0, 1 << 32, (n_rows, width), dtype=np.uint32)
    mask[rng.random(n_rows) < 0.7] = 0xFFFFFFFF
    best = logits.argmax(axis=1)
    mask[np.arange(n_rows), best // 32] |= np.uint32(1) << (best % 32).astype(np.uint32)

    def dicts(values):
        n_listed = rng.integers(0, min(40, n_vocabulary), n_rows) * (rng.random(n_rows) < 0.3)
        return [{int(i): values() for i in rng.permutation(n_vocabulary)[:n]} for n in n_listed]

    batch = batch_of(
        n_rows,
        temperature=rng.choice([0, 1e-320, 1e-6, 0.3, 0.7, 1, 2, 100], n_rows),
        top_k=rng.choice([0, 0, 1, 2, 20, 63, 1000, 30000, 1 << 31], n_rows),
        top_p=rng.choice([1, 1, 0.95, 0.5, 1e-9], n_rows),
        min_p=rng.choice([0, 0, 0.05, 1], n_rows),
        repetition_penalty=rng.choice([1, 1.3, 0.5], n_rows),
        presence_penalty=rng.choice([0, 0.5, -2], n_rows),
        frequency_penalty=rng.choice([0, 0.25, -2], n_rows),
        seeds=rng.integers(0, 1 << 63, n_rows),
        positions=rng.integers(0, 1 << 20, n_rows),
        seen=dicts(lambda: int(rng.integers(0, 5))),
        bias=dicts(lambda: float(rng.normal(scale=5))),
        mask=mask if rng.random() < 0.5 else None,
    )
    return logits, batch


def one_row(batch, row):
    """The batch with a single row left."""
    values = {}
    for name in SampleBatch._fields:
        array = getattr(batch, name)
        kind = name.split("_")[0]
        if array is None or kind not in ("seen", "bias"):
            values[name] = None if array is None else array[row : row + 1]
        elif name.endswith("starts"):
            values[name] = np.array([0, array[row + 1] - array[row]])
        else:
            starts = getattr(batch, f"{kind}_starts")
            values[name] = array[starts[row] : starts[row + 1]]
    return SampleBatch(**values)


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_vocabulary", slow_but([n for n in SIZES if n < 10_000], SIZES))
def test_the_native_kernel_chooses_the_ids_of_the_definition(isa, n_vocabulary):
    for seed in range(4 if n_vocabulary > 2000 else 12):
        logits, batch = random_rows(n_vocabulary, 40, seed)
        wanted = ReferenceOps().sample(logits, batch)
        assert np.array_equal(ops_on(isa).sample(logits, batch), wanted), seed
        assert np.array_equal(ops_on(isa, 3).sample(logits, batch), wanted), seed


@needs_native
@pytest.mark.parametrize("isa", ISAS)
def test_a_row_alone_gets_the_token_that_it_gets_in_company(isa):
    logits, batch = random_rows(4099, 30, 77)
    ids = ops_on(isa, 2).sample(logits, batch)
    alone = [int(ops_on(isa).sample(logits[row : row + 1], one_row(batch, row))[0]) for row in range(len(logits))]
    assert alone == ids.tolist()


@needs_native
def test_the_callers_logits_stay_as_they_were():
    logits, batch = random_rows(1025, 40, 5)
    before = logits.copy()
    ops_on(ISAS[-1], 2).sample(logits, batch)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_draw_is_numpys_philox_keyed_by_the_seed_at_the_position(backend):
    rng = np.random.default_rng(1)
    seeds, positions = rng.integers(0, 1 << 63, 500), rng.integers(0, 1 << 40, 500)
    seeds[:4], positions[:4] = [0, 1, (1 << 63) - 1, 0], [0, 0, 0, 1]
    draws = [
        np.random.Generator(np.random.Philox(key=int(s), counter=int(p))).random()
        for s, p in zip(seeds, positions, strict=True)
    ]
    n = 4096  # of equal weight, so that the id is the draw in steps of 1 / 4096
    ids = ops_of(backend).sample(np.zeros((500, n), np.float32), batch_of(500, seeds=seeds, positions=positions))
    assert ids.tolist() == [int(draw * n) for draw in draws]
    assert [uniform(int(s), int(p)) for s, p in zip(seeds, positions, strict=True)] == draws


def test_weights_are_the_exponential_in_whole_units():
    scores = -np.linspace(0, 24, 20011, dtype=np.float32)
    weights = weigh(scores, batch_of(1), 0)
    np.testing.assert_allclose(weights, np.exp(scores.astype(float)), rtol=3e-10, atol=2.0**-35)
    assert np.array_equal(weights * 2.0**34, np.round(weights * 2.0**34))
    assert weights[0] == 1
    assert weigh(np.float32([0, -26, -1000, -np.inf]), batch_of(1), 0).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_vocabulary", [1, 33, 3000])
def test_greedy_takes_the_largest_and_the_lower_id_among_equals(backend, n_vocabulary):
    logits = np.full((3, n_vocabulary), -5, np.float32)
    at = n_vocabulary * 2 // 3
    logits[1, [at, n_vocabulary - 1]] = 2
    logits[2] = -np.inf
    logits[2, at] = -1e30
    assert ops_of(backend).sample(logits, batch_of(3, temperature=0)).tolist() == [0, at, at]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_temperature_next_to_nothing_is_greedy_and_a_high_one_is_flat(backend):
    logits = np.random.default_rng(0).normal(size=(200, 50)).astype(np.float32)
    cold = ops_of(backend).sample(logits, batch_of(200, temperature=1e-6))
    assert np.array_equal(cold, logits.argmax(axis=1))
    hot = ops_of(backend).sample(np.tile(logits[:1], (5000, 1)), batch_of(5000, temperature=100))
    assert np.bincount(hot, minlength=50).min() > 50


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_the_mask_allows_is_chosen(backend):
    rng = np.random.default_rng(4)
    n_rows, n_vocabulary = 60, 77
    mask = rng.integers(0, 1 << 32, (n_rows, 3), dtype=np.uint32)
    temperatures = np.where(np.arange(n_rows) % 2, 0, 1)
    ids = ops_of(backend).sample(
        rng.normal(size=(n_rows, n_vocabulary)).astype(np.float32), batch_of(n_rows, temperature=temperatures, mask=mask)
    )
    assert all(mask[row, i // 32] >> np.uint32(i % 32) & np.uint32(1) for row, i in enumerate(ids.tolist()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {}, {"top_k": 5}, {"top_p": 0.9}])
@pytest.mark.parametrize(("bad", "message"), [(np.nan, "token 70 is nan"), (np.inf, "token 70 is inf")])
def test_a_row_with_a_logit_that_is_no_number_is_refused_by_its_number(backend, sampling, bad, message):
    logits = np.zeros((3, 1100), np.float32)
    logits[1, 70] = bad
    with pytest.raises(NoTokenLeft, match=f"row 1 of the batch.*{message}") as caught:
        ops_of(backend).sample(logits, batch_of(3, **sampling))
    assert caught.value.row == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {}, {"top_k": 5}, {"top_p": 0.9}])
def test_a_row_of_which_nothing_is_allowed_is_refused(backend, sampling):
    mask = np.full((3, 2), 0xFFFFFFFF, np.uint32)
    mask[2] = 0, 1 << 31  # the bit beyond the vocabulary does not count
    with pytest.raises(NoTokenLeft, match=r"row 2 of the batch.*forbidden"):
        ops_of(backend).sample(np.zeros((3, 63), np.float32), batch_of(3, mask=mask, **sampling))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_penalty_that_overflows_is_named(backend):
    with pytest.raises(NoTokenLeft, match="a penalty makes a logit infinite"):
        ops_of(backend).sample(np.full((1, 5), 3, np.float32), batch_of(1, repetition_penalty=1e-44, seen=[{3: 1}]))


@needs_native
def test_ids_outside_the_vocabulary_and_arrays_that_do_not_fit_are_refused():
    ops, logits = ops_on(ISAS[-1]), np.zeros((2, 40), np.float32)
    narrow = np.ones((2, 1), np.uint32)
    for batch in (batch_of(2, bias=[{}, {40: 1.0}]), batch_of(2, seen=[{-1: 1}, {}]), batch_of(3), batch_of(2, mask=narrow)):
        with pytest.raises(ValueError, match=r"vocabulary|row|mask"):
            ops.sample(logits, batch)


def test_top_k_among_equals_keeps_exactly_k_and_prefers_lower_ids():
    ids, _ = kept(np.zeros(1000, np.float32), batch_of(1, top_k=3), 0)
    assert ids.tolist() == [0, 1, 2]


def previous_choice(logits_V, batch, row):
    """Sampling as version 0.1 had it: numpy's exponential, all sums over sorted weights."""
    temperature, top_k, top_p = batch.temperature[row], int(batch.top_k[row]), batch.top_p[row]
    if temperature == 0:
        return int(np.argmax(logits_V))
    with np.errstate(over="ignore"):
        weights_V = np.exp((logits_V.astype(np.float64) - float(logits_V.max())) / temperature)
    n_kept = min(top_k or len(weights_V), len(weights_V))
    if top_p == 1 and n_kept == len(weights_V):
        ids = np.flatnonzero(weights_V >= max(batch.min_p[row], np.finfo(np.float64).tiny))
    else:
        ids = np.argsort(-logits_V, kind="stable")[:n_kept]
        weights = weights_V[ids]
        before = np.cumsum(weights) - weights
        keep = (before < top_p * weights.sum()) & (weights >= batch.min_p[row])
        keep[0] = True
        ids = ids[keep]
    running = np.cumsum(weights_V[ids])
    draw = uniform(int(batch.seeds[row]), int(batch.positions[row])) * running[-1]
    return int(ids[min(int(np.searchsorted(running, draw, side="right")), len(ids) - 1)])


@pytest.mark.parametrize("backend", BACKENDS[-1:])
@pytest.mark.parametrize("n_vocabulary", [1, 2, 17, 1000, 2049])
def test_answers_of_the_previous_version_can_be_replayed(backend, n_vocabulary):
    rng = np.random.default_rng(n_vocabulary)
    n_rows = 1500
    logits = (rng.normal(size=(n_rows, n_vocabulary)) * rng.choice([0.1, 1, 3, 10], (n_rows, 1))).astype(np.float32)
    batch = batch_of(
        n_rows, temperature=rng.choice([0, 1e-6, 0.7, 1, 100], n_rows), top_k=rng.choice([0, 1, 20, 1500], n_rows),
        top_p=rng.choice([1, 0.9, 1e-6], n_rows), min_p=rng.choice([0, 0.05], n_rows), seeds=rng.integers(0, 1 << 60, n_rows),
    )  # fmt: skip
    wanted = [previous_choice(logits_V, batch, row) for row, logits_V in enumerate(logits)]
    assert ops_of(backend).sample(logits, batch).tolist() == wanted
