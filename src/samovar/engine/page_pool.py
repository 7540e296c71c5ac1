"""The memory for keys and values: a fixed number of pages, handed out and taken back.

A page holds PAGE_TOKENS tokens of all layers. The arrays are reserved at once, and the system commits them as they are
first written, so an idle pool costs nothing.
"""

from samovar.errors import OutOfMemory
from samovar.kernels import KV_DTYPES, PAGE_TOKENS, SCALE_BYTES, KvPages, KvType


def page_bytes(kv_type: KvType, *, n_layers: int, n_kv_heads: int, d_head: int) -> int:
    """Bytes of one page over all layers, keys and values together, with the scales of int8."""
    row_bytes = d_head * KV_DTYPES[kv_type].itemsize + (SCALE_BYTES if kv_type == "int8" else 0)
    return 2 * n_layers * n_kv_heads * PAGE_TOKENS * row_bytes


def n_pages_for(n_tokens: int) -> int:
    """Pages that `n_tokens` tokens need."""
    return -(-n_tokens // PAGE_TOKENS)


class PagePool:
    """Pages by number. Shapes as in `KvPages`; one such pair of arrays a layer."""

    def __init__(self, kv_type: KvType, *, n_pages: int, n_layers: int, n_kv_heads: int, d_head: int) -> None:
        try:
            self.layers = tuple(KvPages.empty(kv_type, n_pages, n_kv_heads, d_head) for _ in range(n_layers))
        except MemoryError as error:
            size = n_pages * page_bytes(kv_type, n_layers=n_layers, n_kv_heads=n_kv_heads, d_head=d_head)
            raise OutOfMemory(
                f"keys and values of {n_pages * PAGE_TOKENS} tokens need {size / 2**30:.1f} GiB, which the system refuses; "
                "ask for a smaller context (--ctx-size)"
            ) from error
        self.n_pages = n_pages
        self._free = list(range(n_pages - 1, -1, -1))

    @property
    def n_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def grow(self, pages: list[int], n_tokens: int) -> None:
        """Add pages to the list until it holds `n_tokens`. Raises OutOfMemory, and adds none, when too few are free."""
        n_more = n_pages_for(n_tokens) - len(pages)
        if n_more > self.n_free:
            raise OutOfMemory(
                f"{n_more} more pages of {PAGE_TOKENS} tokens are needed, and {self.n_free} of {self.n_pages} are free; "
                "send fewer requests at once, or raise the context (--ctx-size)"
            )
        pages.extend(self._free.pop() for _ in range(n_more))

    def shrink(self, pages: list[int], n_tokens: int) -> None:
        """Take back the pages past the first `n_tokens`."""
        keep = n_pages_for(n_tokens)
        self._free.extend(reversed(pages[keep:]))
        del pages[keep:]
