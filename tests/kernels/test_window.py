"""Attention to the last keys alone: against the NumPy definition and PyTorch, the same bits every way, and no more work."""

import time

import numpy as np
import pytest
import torch

from samovar.kernels import KvType
from samovar.kernels.reference import ReferenceOps
from tests.kernels.kv_cases import KV_TYPES, cache_of, cleaned, garbage_pages, randn, slots_of, spans_of
from tests.kernels.native_cases import ISAS, ops_on
from tests.matrices import slow_but

on_each_isa = pytest.mark.parametrize("isa", ISAS)
of_each_type = pytest.mark.parametrize("kind", KV_TYPES)
# Within a page, whole pages, across partitions of 256 keys, and all there is.
WINDOWS = [1, 2, 31, 32, 33, 100, 256, 257, 600]
COUNTS, LENGTHS = [1, 2, 7, 33, 1], [1, 33, 300, 64, 520]


@pytest.mark.parametrize("window", [1, 5, 32, 69, 70, 200])
def test_the_reference_agrees_with_a_masked_pytorch(window: int) -> None:
    n, k, v = 70, randn(70, 2, 20), randn(70, 2, 20, seed=1)
    pages, table = garbage_pages("f32", 4, 2, 20), np.array([[2, 0, 3]], np.int32)
    ReferenceOps().write_kv(k, v, pages, slots_of(table[0], 0, n))
    q = randn(n, 6, 20, seed=2)
    out = ReferenceOps().attention(q, cleaned(pages), spans_of([n], [0], table), 0.3, window)
    q_HTK, k_GTK, v_GTK = (torch.from_numpy(x).double().transpose(0, 1) for x in (q, k, v))
    distance = torch.arange(n)[:, None] - torch.arange(n)[None]
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q_HTK, k_GTK, v_GTK, attn_mask=(distance >= 0) & (distance < window), scale=0.3, enable_gqa=True
    ).transpose(0, 1)
    np.testing.assert_allclose(out, wanted.numpy(), rtol=0, atol=5e-6)


@on_each_isa
@of_each_type
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "d_head"), [(4, 2, 80), (7, 1, 36), (16, 1, 64)])
def test_attention_with_a_window_matches_the_reference(
    isa: str, kind: KvType, n_heads: int, n_kv_heads: int, d_head: int
) -> None:
    pages, tables = cache_of(ReferenceOps(), kind, LENGTHS, n_kv_heads, d_head)
    spans = spans_of(COUNTS, [n - c for n, c in zip(LENGTHS, COUNTS, strict=True)], tables)
    q, clean = 2 * randn(sum(COUNTS), n_heads, d_head, seed=9), cleaned(pages)
    for window in WINDOWS:
        wanted = ReferenceOps().attention(q, clean, spans, d_head**-0.5, window)
        out = ops_on(isa, 2).attention(q, pages, spans, d_head**-0.5, window)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)
        assert np.array_equal(ops_on(isa).attention(q, pages, spans, d_head**-0.5, window), out)


@of_each_type
def test_a_window_that_holds_all_changes_no_bit(kind: KvType) -> None:
    pages, tables = cache_of(ReferenceOps(), kind, [300], 2, 36)
    q, spans = randn(40, 6, 36), spans_of([40], [260], tables)
    for ops in (ReferenceOps(), *map(ops_on, ISAS)):
        whole = ops.attention(q, cleaned(pages), spans, 0.1)
        assert np.array_equal(ops.attention(q, cleaned(pages), spans, 0.1, 300), whole)
        assert not np.array_equal(ops.attention(q, cleaned(pages), spans, 0.1, 299), whole)


@pytest.mark.parametrize("isa", slow_but(ISAS[-1:], ISAS))
@of_each_type
@pytest.mark.parametrize("window", [20, 100, 300])
def test_windows_in_chunks_alone_or_in_company_have_the_bits_of_the_whole(isa: str, kind: KvType, window: int) -> None:
    n, n_kv_heads, n_heads, d_head = 600, 2, 10, 20
    pages, tables = cache_of(ops_on(isa), kind, [n, 45], n_kv_heads, d_head)
    q = randn(n, n_heads, d_head, seed=3)
    whole = ops_on(isa, 2).attention(q, pages, spans_of([n], [0], tables[:1]), 0.125, window)
    for ops in (ops_on(isa), ops_on(isa, 2)):
        for start, stop in ((0, 1), (31, 33), (250, 260), (256, 257), (275, 277), (355, 357), (531, 599), (599, 600)):
            part = ops.attention(q[start:stop], pages, spans_of([stop - start], [start], tables[:1]), 0.125, window)
            assert np.array_equal(part, whole[start:stop]), (start, stop)
            both = np.concatenate([q[start:stop], q[:7]])
            mixed = ops.attention(both, pages, spans_of([stop - start, 7], [start, 38], tables), 0.125, window)
            assert np.array_equal(mixed[: stop - start], whole[start:stop]), (start, stop)


@of_each_type
@pytest.mark.parametrize("window", [9, 280])
def test_every_instruction_set_gives_the_same_bits_with_a_window(kind: KvType, window: int) -> None:
    pages, tables = cache_of(ReferenceOps(), kind, [600], 2, 72)
    q, spans = randn(40, 6, 72), spans_of([40], [560], tables)
    assert len({ops_on(isa).attention(q, pages, spans, 0.1, window).tobytes() for isa in ISAS}) == 1


@on_each_isa
@of_each_type
@pytest.mark.parametrize("n_rows", [1, 40])
def test_a_row_never_meets_a_key_before_its_window_even_one_that_is_no_number(isa: str, kind: KvType, n_rows: int) -> None:
    n, d_head, window = 600, 20, 70
    pages, tables = cache_of(ops_on(isa), kind, [n], 1, d_head)
    q, spans = randn(n_rows, 3, d_head), spans_of([n_rows], [n - n_rows], tables)
    before = ops_on(isa).attention(q, pages, spans, 0.2, window)
    n_passed = n - n_rows + 1 - window
    nothing = np.full((n_passed, 1, d_head), np.nan, np.float32)
    ops_on(isa).write_kv(nothing, nothing, pages, slots_of(tables[0], 0, n_passed))
    assert np.array_equal(ops_on(isa).attention(q, pages, spans, 0.2, window), before)
    ops_on(isa).write_kv(nothing[:1], nothing[:1], pages, slots_of(tables[0], n_passed, n_passed + 1))
    after = ops_on(isa).attention(q, pages, spans, 0.2, window)
    assert np.isnan(after[0]).all()
    assert np.array_equal(after[1:], before[1:])


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
def test_keys_before_the_window_cost_nothing() -> None:
    ops, n = ops_on(ISAS[-1]), 8192
    pages, tables = cache_of(ops, "bf16", [n], 2, 128)
    for n_rows in (1, 64):
        q, spans = randn(n_rows, 8, 128), spans_of([n_rows], [n - n_rows], tables)

        def seconds(window: int | None, q: np.ndarray = q, spans: object = spans) -> float:
            times = []
            for _ in range(20):
                start = time.thread_time()
                ops.attention(q, pages, spans, 0.1, window)
                times.append(time.thread_time() - start)
            return min(times)

        assert seconds(512) < 0.25 * seconds(None)
