"""Native norm, rope, gate, pages and attention against the NumPy definition; threads, instruction sets and errors."""

import multiprocessing
import threading

import numpy as np
import pytest

from samovar.errors import SamovarError
from samovar.kernels import PAGE_TOKENS, KvPages, KvType, Spans
from samovar.kernels.native import NativeOps, available_isas, native_missing_reason, native_ops
from samovar.kernels.reference import ReferenceOps
from samovar.tensors.dtypes import Q8_0
from tests.kernels.native_cases import ISAS, ops_on, random_weight

pytestmark = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
KV_TYPES: tuple[KvType, ...] = ("f32", "f16", "bf16")


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def garbage_pages(kind: KvType, n_pages: int, n_kv_heads: int, d_head: int) -> KvPages:
    """Pages as an allocator leaves them: full of not-a-number."""
    k = np.full((n_pages, n_kv_heads, d_head, PAGE_TOKENS), 0xFFFF if kind == "bf16" else np.nan, DTYPES[kind])
    return KvPages(type=kind, k_PGKB=k, v_PGBK=np.ascontiguousarray(k.swapaxes(2, 3)))


def cache_of(
    ops: NativeOps | ReferenceOps, kind: KvType, lengths: list[int], n_kv_heads: int, d_head: int
) -> tuple[KvPages, np.ndarray]:
    """Pages that hold sequences of these lengths on shuffled pages, and their page tables."""
    n_pages_each = [-(-n // PAGE_TOKENS) for n in lengths]
    order = np.random.default_rng(5).permutation(sum(n_pages_each) + 1).astype(np.int32)
    pages = garbage_pages(kind, len(order), n_kv_heads, d_head)
    tables = np.zeros((len(lengths), max(n_pages_each)), np.int32)
    at = 0
    for s, (n, n_pages) in enumerate(zip(lengths, n_pages_each, strict=True)):
        tables[s, :n_pages] = order[at : at + n_pages]
        at += n_pages
        t = np.arange(n)
        slots = tables[s, t // PAGE_TOKENS].astype(np.int64) * PAGE_TOKENS + t % PAGE_TOKENS
        ops.write_kv(randn(n, n_kv_heads, d_head, seed=s), randn(n, n_kv_heads, d_head, seed=100 + s), pages, slots)
    return pages, tables


def spans_of(counts: list[int], positions: list[int], tables: np.ndarray) -> Spans:
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Spans(row_starts=starts, positions=np.array(positions, np.int32), page_tables_SP=tables)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 576), (33, 64), (3, 7), (2, 5, 80), (300, 129)])
def test_rms_norm_matches_the_reference(isa: str, shape: tuple[int, ...]) -> None:
    x, weight = 3 * randn(*shape), randn(shape[-1], seed=1)
    wanted = ReferenceOps().rms_norm(x, weight, 1e-5)
    out = ops_on(isa, 2).rms_norm(x, weight, 1e-5)
    np.testing.assert_allclose(out, wanted, rtol=2e-6, atol=1e-7)
    assert np.array_equal(ops_on(isa).rms_norm(x[-1:], weight, 1e-5), out[-1:])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("n_tokens", "n_heads", "d_head", "n_pairs"), [(1, 3, 64, 32), (70, 14, 128, 64), (5, 2, 36, 9), (2, 1, 80, 20)]
)
def test_rope_matches_the_reference(isa: str, n_tokens: int, n_heads: int, d_head: int, n_pairs: int) -> None:
    x, angle = randn(n_tokens, n_heads, d_head), 50 * randn(n_tokens, n_pairs, seed=1)
    wanted = ReferenceOps().rope(x, np.cos(angle), np.sin(angle))
    np.testing.assert_allclose(ops_on(isa, 2).rope(x, np.cos(angle), np.sin(angle)), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_silu_gate_matches_the_reference_to_a_few_units_in_the_last_place(isa: str) -> None:
    gate = np.concatenate([np.linspace(-120, 120, 20001), [0, -0.0, 1e-30, 1e30, -1e30, 88.8, -88.8]]).astype(np.float32)[None]
    up = np.ones_like(gate)
    exact = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64).clip(-700, 700)))
    out = ops_on(isa, 2).silu_gate(gate, up)
    np.testing.assert_allclose(out, exact, rtol=5e-7, atol=1e-36)  # float32 ends there
    assert np.array_equal(ops_on(isa).silu_gate(gate[:, 7:8], 2 * up[:, 7:8]), 2 * out[:, 7:8])


@pytest.mark.parametrize("isa", ISAS)
def test_no_number_in_is_no_number_out(isa: str) -> None:
    x = np.full((1, 5), np.nan, np.float32)
    ops = ops_on(isa)
    assert np.isnan(ops.silu_gate(x, np.ones_like(x))).all()
    assert np.isnan(ops.rms_norm(x, x[0], 1e-5)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KV_TYPES)
def test_write_kv_has_the_bits_of_the_reference(isa: str, kind: KvType) -> None:
    edge = np.array([0, -0.0, 1e-8, 6e-8, 3e-5, 65504, 65519, 1.00048828125, 2049, -1e-40], np.float32)
    k, v = randn(40, 2, 20), randn(40, 2, 20, seed=1)
    k[0, 0, :10] = v[1, 1, :10] = edge
    slots = np.random.default_rng(2).permutation(4 * PAGE_TOKENS)[:40].astype(np.int64)
    ours, theirs = garbage_pages(kind, 4, 2, 20), garbage_pages(kind, 4, 2, 20)
    ops_on(isa, 2).write_kv(k, v, ours, slots)
    ReferenceOps().write_kv(k, v, theirs, slots)
    assert ours.k_PGKB.tobytes() == theirs.k_PGKB.tobytes()
    assert ours.v_PGBK.tobytes() == theirs.v_PGBK.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "d_head"), [(3, 1, 64), (14, 2, 36), (4, 4, 80), (8, 1, 128), (1, 1, 4)])
def test_attention_matches_the_reference(isa: str, kind: KvType, n_heads: int, n_kv_heads: int, d_head: int) -> None:
    lengths, counts = [1, 33, 300, 64, 290], [1, 20, 3, 1, 17]
    pages, tables = cache_of(ReferenceOps(), kind, lengths, n_kv_heads, d_head)
    spans = spans_of(counts, [n - c for n, c in zip(lengths, counts, strict=True)], tables)
    q = 2 * randn(sum(counts), n_heads, d_head, seed=9)
    with np.errstate(invalid="ignore"):
        k_page, v_page = (
            np.nan_to_num(p) if kind != "bf16" else np.where(p == 0xFFFF, 0, p) for p in (pages.k_PGKB, pages.v_PGBK)
        )
    clean = KvPages(type=kind, k_PGKB=k_page, v_PGBK=v_page)
    wanted = ReferenceOps().attention(q, clean, spans, d_head**-0.5)
    np.testing.assert_allclose(ops_on(isa, 2).attention(q, pages, spans, d_head**-0.5), wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_attention_in_chunks_alone_or_in_company_has_the_bits_of_the_whole(isa: str) -> None:
    n, n_heads, n_kv_heads, d_head = 600, 6, 2, 64
    pages, tables = cache_of(ops_on(isa), "f16", [n, 45], n_kv_heads, d_head)
    q = randn(n, n_heads, d_head, seed=3)
    alone, pair = ops_on(isa), ops_on(isa, 2)
    whole = pair.attention(q, pages, spans_of([n], [0], tables[:1]), 0.125)
    assert np.array_equal(alone.attention(q, pages, spans_of([n], [0], tables[:1]), 0.125), whole)
    for ops in (alone, pair):
        for start, stop in ((0, 1), (31, 33), (250, 260), (255, 256), (256, 257), (511, 599), (599, 600), (100, 113)):
            part = ops.attention(q[start:stop], pages, spans_of([stop - start], [start], tables[:1]), 0.125)
            assert np.array_equal(part, whole[start:stop]), (start, stop)
            both = np.concatenate([q[start:stop], q[:7]])
            mixed = ops.attention(both, pages, spans_of([stop - start, 7], [start, 38], tables), 0.125)
            assert np.array_equal(mixed[: stop - start], whole[start:stop]), (start, stop)


def test_every_instruction_set_gives_the_same_bits() -> None:
    x, weight, angle = randn(3, 4, 72), randn(72, seed=1), randn(3, 36, seed=2)
    pages, tables = cache_of(ReferenceOps(), "bf16", [300], 2, 72)
    results = set()
    for ops in map(ops_on, ISAS):
        outs = [
            ops.rms_norm(x, weight, 1e-6),
            ops.rope(x, np.cos(angle), np.sin(angle)),
            ops.silu_gate(x, x),
            ops.attention(x, pages, spans_of([3], [297], tables), 0.1),
        ]
        results.add(b"".join(out.tobytes() for out in outs))
    assert len(results) == 1


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    ops = ops_on(ISAS[-1], 2)
    packed = ops.pack(random_weight(Q8_0, 500, 256))
    inputs = [randn(6, 256, seed=i) for i in range(4)]
    wanted = [ops.linear(x, packed) for x in inputs]
    failures: list[int] = []

    def repeat(i: int) -> None:
        failures.extend(i for _ in range(50) if not np.array_equal(ops.linear(inputs[i], packed), wanted[i]))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def _child(ops: NativeOps, x: np.ndarray, expected: bytes, weight_name: str) -> None:
    out = ops.rms_norm(x, np.ones(x.shape[1], np.float32), 1e-5)
    raise SystemExit(0 if out.tobytes() == expected and weight_name == "w" else 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_compute() -> None:
    ops = ops_on(ISAS[-1], 2)
    x = randn(500, 256)
    expected = ops.rms_norm(x, np.ones(256, np.float32), 1e-5).tobytes()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(ops, x, expected, "w"))
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_arrays_that_do_not_fit_are_refused_before_any_memory_is_touched() -> None:
    ops = ops_on(ISAS[0])
    packed = ops.pack(random_weight(Q8_0, 16, 64))
    pages, tables = cache_of(ops, "f16", [40], 2, 8)
    x, q = randn(2, 64), randn(1, 4, 8)
    wrong_page, short_table = np.array([[0, 99]], np.int32), tables[:, :1].copy()
    calls = [
        lambda: ops.linear(x[:, :32].copy(), packed),
        lambda: ops.rms_norm(x, x[0, :5].copy(), 1e-5),
        lambda: ops.rope(q, x[:, :8].copy(), x[:, :8].copy()),
        lambda: ops.silu_gate(x, x[:1]),
        lambda: ops.embed(random_weight(Q8_0, 4, 64), np.array([4], np.int64)),
        lambda: ops.write_kv(randn(1, 2, 8), randn(1, 2, 8), pages, np.array([3 * PAGE_TOKENS], np.int64)),
        lambda: ops.write_kv(randn(1, 2, 8), randn(1, 1, 8), pages, np.array([0], np.int64)),
        lambda: ops.attention(q, pages, spans_of([1], [39], wrong_page), 1.0),
        lambda: ops.attention(q, pages, spans_of([1], [39], short_table), 1.0),
        lambda: ops.attention(q, pages, spans_of([2], [3], tables), 1.0),
        lambda: ops.attention(randn(1, 3, 8), pages, spans_of([1], [3], tables), 1.0),
        lambda: ops.attention(
            q, KvPages(type="f32", k_PGKB=pages.k_PGKB, v_PGBK=pages.v_PGBK), spans_of([1], [3], tables), 1.0
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"\w"):
            call()
    for strided in (x[:, ::2], x.astype(np.float64)):
        with pytest.raises(TypeError):
            ops.linear(strided, packed)


def test_an_unknown_instruction_set_is_refused_with_those_available() -> None:
    with pytest.raises(SamovarError, match=r"'sse9' is not available here: choose one of scalar"):
        native_ops("sse9")
    with pytest.raises(SamovarError, match="give 1 or more"):
        native_ops(n_threads=0)


def test_the_best_instruction_set_and_all_cores_are_the_default() -> None:
    ops = native_ops()
    assert ops.isa == available_isas()[-1]
    assert ops.n_threads >= 1
    assert native_missing_reason() is None


def test_a_missing_build_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "samovar._native", None)
    assert "install a C++ compiler" in str(native_missing_reason())
    assert available_isas() == ()
    with pytest.raises(SamovarError, match="native kernels are not installed"):
        native_ops()
