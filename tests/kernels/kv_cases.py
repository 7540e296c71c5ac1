"""Pages of keys and values as an engine would have them, for the tests of the native kernels."""

import numpy as np

from samovar.kernels import KV_DTYPES, PAGE_TOKENS, KvPages, KvType, Spans
from samovar.kernels.native import NativeOps
from samovar.kernels.reference import ReferenceOps

KV_TYPES: tuple[KvType, ...] = tuple(KV_DTYPES)


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def garbage_pages(kind: KvType, n_pages: int, n_kv_heads: int, d_head: int) -> KvPages:
    """Pages as an allocator may leave them: full of not-a-number (int8: in the scales)."""
    pages = KvPages.empty(kind, n_pages, n_kv_heads, d_head)
    for array in (pages.k_PGKB, pages.v_PGBK, pages.k_scale_PGB, pages.v_scale_PGB):
        array.reshape(-1).view(np.uint8).fill(0xFF)
    return pages


def cleaned(pages: KvPages) -> KvPages:
    """A copy with 0 where nothing was ever written: the reference multiplies that by a weight of 0."""
    copy = KvPages.empty(pages.type, len(pages.k_PGKB), *pages.k_PGKB.shape[1:3])
    for name in ("k_PGKB", "v_PGBK", "k_scale_PGB", "v_scale_PGB"):
        values = getattr(pages, name)
        is_garbage = np.isnan(values) if values.dtype.kind == "f" else (values == 0xFFFF)
        getattr(copy, name)[...] = np.where(is_garbage, values.dtype.type(0), values)
    return copy


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
        slots = slots_of(tables[s], 0, n)
        ops.write_kv(randn(n, n_kv_heads, d_head, seed=s), randn(n, n_kv_heads, d_head, seed=100 + s), pages, slots)
    return pages, tables


def slots_of(table: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Where the tokens at these positions lie."""
    t = np.arange(start, stop)
    return table[t // PAGE_TOKENS].astype(np.int64) * PAGE_TOKENS + t % PAGE_TOKENS


def spans_of(counts: list[int], positions: list[int], tables: np.ndarray) -> Spans:
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Spans(row_starts=starts, positions=np.array(positions, np.int32), page_tables_SP=tables)
