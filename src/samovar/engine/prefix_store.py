"""A prefix cache as data that can be kept on disk: which texts its pages hold, and what is in them.

Texts of adapters are left out: another session may know other weights by the same name.
"""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from samovar.engine.page_pool import PagePool
from samovar.engine.prefix_cache import Node, PrefixCache
from samovar.kernels import PAGE_TOKENS

_Bytes = NDArray[np.uint8]


def collect(cache: PrefixCache) -> tuple[dict[str, object], dict[str, _Bytes]]:
    """All pages of the cache as (plain data for JSON, named bytes), parents before children."""
    places: dict[Node, int] = {}
    nodes: list[dict[str, object]] = []
    for (tenant, adapter, factor), path in cache.paths():
        if not adapter:
            node, parent = path[-1], path[-2] if len(path) > 1 else None
            places[node] = len(places)
            place = {"tenant": tenant, "factor": factor, "parent": -1 if parent is None else places[parent]}
            nodes.append({**place, "ids": list(node.ids)})
    pages = np.array([node.page for node in places], np.int64)
    return {"nodes": nodes}, {name: _gather(array, pages) for name, array in _arrays(cache.pool).items()}


def restore(
    cache: PrefixCache,
    meta: Mapping[str, object],
    sections: Mapping[str, _Bytes],
    vocab_size: int,
    factors: Collection[int] = (1,),
) -> int:
    """Put pages back into the cache, as far as pages are free; the tokens of those that were. Those of other YaRN factors than
    `factors` stay away. Raises ValueError for unsound data."""
    nodes = meta["nodes"]
    if not isinstance(nodes, list):
        raise ValueError("nodes is no list")
    arrays = _arrays(cache.pool)
    saved = {name: _view(sections[name], array, len(nodes)) for name, array in arrays.items()}
    placed: list[Node | None] = []
    n_tokens = 0
    for index, entry in enumerate(nodes):
        tenant, factor, parent_index, ids = entry["tenant"], entry["factor"], entry["parent"], entry["ids"]
        _check(tenant, factor, parent_index, ids, index, vocab_size)
        is_known = factor in factors
        parent = (cache.root((tenant, "", factor)) if is_known else None) if parent_index < 0 else placed[parent_index]
        if parent is None or (parent_index >= 0 and len(parent.ids) < PAGE_TOKENS):
            placed.append(None)  # there was no page for what precedes it, or nobody asks for it
            continue
        if (node := parent.find(tuple(ids))) is None and (node := cache.adopt(parent, tuple(ids))) is not None:
            n_tokens += len(ids)
            for name, array in arrays.items():
                array[node.page] = saved[name][index]
        placed.append(node)
    return n_tokens


def _arrays(pool: PagePool) -> dict[str, NDArray[np.generic]]:
    """Everything that pages hold, by name; pages are the first axis."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for index, layer in enumerate(pool.layers):
        arrays |= {f"k{index}": layer.k_PGKB, f"v{index}": layer.v_PGBK}
        if len(layer.k_scale_PGB):
            arrays |= {f"ks{index}": layer.k_scale_PGB, f"vs{index}": layer.v_scale_PGB}
    return arrays


def _gather(array: NDArray[np.generic], pages: NDArray[np.int64]) -> _Bytes:
    return np.ascontiguousarray(array[pages]).reshape(-1).view(np.uint8)


def _view(data: _Bytes, like: NDArray[np.generic], n_pages: int) -> NDArray[np.generic]:
    shape = (n_pages, *like.shape[1:])
    if len(data) != int(np.prod(shape)) * like.dtype.itemsize:
        raise ValueError("a section has the wrong size")
    return data.view(like.dtype).reshape(shape)


def _check(tenant: object, factor: object, parent: object, ids: object, index: int, vocab_size: int) -> None:
    if not isinstance(tenant, str) or type(factor) is not int or not isinstance(parent, int) or not -1 <= parent < index:
        raise ValueError(f"node {index} has no place")
    if not isinstance(ids, list) or not 1 <= len(ids) <= PAGE_TOKENS:
        raise ValueError(f"node {index} has no tokens")
    if any(type(i) is not int or not 0 <= i < vocab_size for i in ids):
        raise ValueError(f"node {index} has a token outside the vocabulary")
