"""Pages of keys and values, and attention over them: against the NumPy definition and PyTorch, and the same bits every way."""

import numpy as np
import pytest
import torch

from samovar.kernels import PAGE_TOKENS, KvType
from samovar.kernels.reference import ReferenceOps
from tests.kernels.kv_cases import KV_TYPES, cache_of, cleaned, garbage_pages, randn, slots_of, spans_of
from tests.kernels.native_cases import ISAS, ops_on
from tests.matrices import slow_but

on_each_isa = pytest.mark.parametrize("isa", ISAS)
of_each_type = pytest.mark.parametrize("kind", KV_TYPES)
# Rows, and the tokens that each sequence then has: one row to more than a register tile, one page to several partitions.
COUNTS, LENGTHS = [1, 2, 7, 33, 1], [1, 33, 300, 64, 520]
SHAPES = [
    (1, 1, 64), (4, 2, 80), (3, 1, 96), (8, 2, 128), (5, 1, 256), (6, 1, 64), (7, 1, 80), (8, 1, 96), (2, 2, 128),
    (14, 2, 36), (1, 1, 4), (2, 1, 7), (3, 3, 17),
]  # fmt: skip


@on_each_isa
@of_each_type
@pytest.mark.parametrize("d_head", [20, 64])
def test_write_kv_has_the_bits_of_the_reference(isa: str, kind: KvType, d_head: int) -> None:
    edge = np.array([0, -0.0, 1e-8, 6e-8, 3e-5, 65504, 65519, 1.00048828125, 2049, -1e-40], np.float32)
    k, v = randn(40, 2, d_head), randn(40, 2, d_head, seed=1)
    k[0, 0, :10] = v[1, 1, :10] = edge
    k[2, 0], k[3, 1, 5], v[3, 0, 3], v[4, 1, 0] = 0, np.inf, np.nan, -np.inf
    v[5, 0], k[6, 0, 1], k[7, 1], v[8, 1] = 2.6e-43 * randn(d_head), -1e5, 1e-44, 3e38
    slots = np.random.default_rng(2).permutation(4 * PAGE_TOKENS)[:40].astype(np.int64)
    ours, theirs = garbage_pages(kind, 4, 2, d_head), garbage_pages(kind, 4, 2, d_head)
    ops_on(isa, 2).write_kv(k, v, ours, slots)
    ReferenceOps().write_kv(k, v, theirs, slots)
    for name in ("k_PGKB", "v_PGBK", "k_scale_PGB", "v_scale_PGB"):
        assert np.array_equal(_bits(getattr(ours, name)), _bits(getattr(theirs, name))), name


def _bits(x: np.ndarray) -> np.ndarray:
    """The stored bits, with one for all that is no number."""
    if x.dtype.kind == "f":
        x = np.where(np.isnan(x), x.dtype.type(np.nan), x)
    return x.view(f"u{x.dtype.itemsize}")


def test_float16_pages_hold_the_nearest_finite_number_where_a_value_is_too_large() -> None:
    pages, slot = garbage_pages("f16", 1, 1, 4), np.array([0], np.int64)
    x = np.array([[[70000, -1e30, np.inf, -np.inf]]], np.float32)
    ReferenceOps().write_kv(x, x, pages, slot)
    assert pages.v_PGBK[0, 0, 0].tolist() == [65504, -65504, np.inf, -np.inf]


def test_int8_pages_are_within_half_a_step_and_never_hide_what_is_no_number() -> None:
    k, v = randn(20, 2, 64), randn(20, 2, 64, seed=1)
    v[3, 1, 7] = np.nan
    pages = garbage_pages("int8", 1, 2, 64)
    ReferenceOps().write_kv(k, v, pages, np.arange(20))
    stored_k = (pages.k_PGKB * pages.k_scale_PGB[:, :, None])[0, :, :, :20].transpose(2, 0, 1)
    stored_v = (pages.v_PGBK * pages.v_scale_PGB[..., None])[0, :, :20].transpose(1, 0, 2)
    assert (np.abs(stored_k - k).max(axis=-1) <= np.abs(k).max(axis=-1) / 253.9).all()
    assert np.isnan(stored_v[3, 1]).all()
    assert np.isfinite(np.delete(stored_v, 3, axis=0)).all()


@pytest.mark.parametrize(("n_heads", "n_kv_heads", "d_head"), [(6, 2, 64), (3, 1, 17)])
def test_the_reference_agrees_with_pytorch(n_heads: int, n_kv_heads: int, d_head: int) -> None:
    n, k, v = 70, randn(70, n_kv_heads, d_head), randn(70, n_kv_heads, d_head, seed=1)
    pages, table = garbage_pages("f32", 4, n_kv_heads, d_head), np.array([[2, 0, 3]], np.int32)
    ReferenceOps().write_kv(k, v, pages, slots_of(table[0], 0, n))
    q = randn(n, n_heads, d_head, seed=2)
    out = ReferenceOps().attention(q, cleaned(pages), spans_of([n], [0], table), 0.3)
    q_HTK, k_GTK, v_GTK = (torch.from_numpy(x).double().transpose(0, 1) for x in (q, k, v))
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q_HTK, k_GTK, v_GTK, is_causal=True, scale=0.3, enable_gqa=True
    ).transpose(0, 1)
    np.testing.assert_allclose(out, wanted.numpy(), rtol=0, atol=5e-6)


@on_each_isa
@of_each_type
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "d_head"), SHAPES)
def test_attention_matches_the_reference(isa: str, kind: KvType, n_heads: int, n_kv_heads: int, d_head: int) -> None:
    pages, tables = cache_of(ReferenceOps(), kind, LENGTHS, n_kv_heads, d_head)
    spans = spans_of(COUNTS, [n - c for n, c in zip(LENGTHS, COUNTS, strict=True)], tables)
    q = 2 * randn(sum(COUNTS), n_heads, d_head, seed=9)
    wanted = ReferenceOps().attention(q, cleaned(pages), spans, d_head**-0.5)
    out = ops_on(isa, 2).attention(q, pages, spans, d_head**-0.5)
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)
    assert np.array_equal(ops_on(isa).attention(q, pages, spans, d_head**-0.5), out)


@pytest.mark.parametrize("isa", slow_but(ISAS[-1:], ISAS))
@of_each_type
@pytest.mark.parametrize(("n_heads", "d_head"), [(6, 64), (10, 20)])
def test_attention_in_chunks_alone_or_in_company_has_the_bits_of_the_whole(
    isa: str, kind: KvType, n_heads: int, d_head: int
) -> None:
    n, n_kv_heads = 600, 2
    pages, tables = cache_of(ops_on(isa), kind, [n, 45], n_kv_heads, d_head)
    q = randn(n, n_heads, d_head, seed=3)
    alone, pair = ops_on(isa), ops_on(isa, 2)
    whole = pair.attention(q, pages, spans_of([n], [0], tables[:1]), 0.125)
    for ops in (alone, pair):
        for start, stop in ((0, 1), (31, 33), (250, 260), (255, 256), (256, 257), (531, 599), (599, 600), (100, 113)):
            part = ops.attention(q[start:stop], pages, spans_of([stop - start], [start], tables[:1]), 0.125)
            assert np.array_equal(part, whole[start:stop]), (start, stop)
            both = np.concatenate([q[start:stop], q[:7]])
            mixed = ops.attention(both, pages, spans_of([stop - start, 7], [start, 38], tables), 0.125)
            assert np.array_equal(mixed[: stop - start], whole[start:stop]), (start, stop)


@of_each_type
@pytest.mark.parametrize("d_head", [72, 128, 9])
def test_every_instruction_set_gives_the_same_bits(kind: KvType, d_head: int) -> None:
    pages, tables = cache_of(ReferenceOps(), kind, [300], 2, d_head)
    q = randn(40, 6, d_head)
    few, many = spans_of([2], [298], tables), spans_of([40], [260], tables)
    results = {
        b"".join(x.tobytes() for x in (ops.attention(q[:2], pages, few, 0.1), ops.attention(q, pages, many, 0.1)))
        for ops in map(ops_on, ISAS)
    }
    assert len(results) == 1


@on_each_isa
@of_each_type
def test_a_row_never_meets_a_later_token_even_one_that_is_no_number(isa: str, kind: KvType) -> None:
    n, d_head = 50, 20
    pages, tables = cache_of(ops_on(isa), kind, [n], 1, d_head)
    q = randn(n, 3, d_head)
    before = ops_on(isa).attention(q, pages, spans_of([n], [0], tables), 0.2)
    nothing = np.full((1, 1, d_head), np.nan, np.float32)
    ops_on(isa).write_kv(nothing, nothing, pages, slots_of(tables[0], 41, 42))
    after = ops_on(isa).attention(q, pages, spans_of([n], [0], tables), 0.2)
    assert np.array_equal(after[:41], before[:41])
    assert np.isnan(after[41:]).all()
