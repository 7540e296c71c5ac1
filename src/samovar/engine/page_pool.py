"""The memory for keys and values: a fixed number of pages, each used by sequences and held by the prefix cache.

A page holds PAGE_TOKENS tokens of all layers. The arrays are reserved at once, and the system commits them as they are
first written, so an idle pool costs nothing.
"""

from samovar.engine.state_pool import StatePool
from samovar.errors import OutOfMemory
from samovar.kernels import KV_DTYPES, PAGE_TOKENS, SCALE_BYTES, KvPages, KvType
from samovar.models.config import DecoderConfig


def page_bytes(kv_type: KvType, *, n_layers: int, n_kv_heads: int, d_head: int) -> int:
    """Bytes of one page over all layers, keys and values together, with the scales of int8."""
    row_bytes = d_head * KV_DTYPES[kv_type].itemsize + (SCALE_BYTES if kv_type == "int8" else 0)
    return 2 * n_layers * n_kv_heads * PAGE_TOKENS * row_bytes


def n_pages_for(n_tokens: int) -> int:
    """Pages that `n_tokens` tokens need."""
    return -(-n_tokens // PAGE_TOKENS)


class PagePool:
    """Pages by number. Shapes as in `KvPages`; one such pair of arrays a layer.

    A page is free while no sequence uses it and the prefix cache does not hold it; idle while the cache alone holds it.
    `states` are what layers keep that have no keys and values.
    """

    def __init__(
        self,
        kv_type: KvType,
        *,
        n_pages: int,
        n_layers: int,
        n_kv_heads: int,
        d_head: int,
        states: StatePool | None = None,
    ) -> None:
        try:
            self.layers = tuple(KvPages.empty(kv_type, n_pages, n_kv_heads, d_head) for _ in range(n_layers))
        except MemoryError as error:
            size = n_pages * page_bytes(kv_type, n_layers=n_layers, n_kv_heads=n_kv_heads, d_head=d_head)
            raise OutOfMemory(
                f"keys and values of {n_pages * PAGE_TOKENS} tokens need {size / 2**30:.1f} GiB, which the system refuses; "
                "ask for a smaller context (--ctx-size)"
            ) from error
        self.n_pages, self.n_idle, self.states = n_pages, 0, states
        self._free = list(range(n_pages - 1, -1, -1))
        self._n_users = [0] * n_pages
        self._is_held = [False] * n_pages

    @property
    def n_free(self) -> int:
        """Pages that nobody uses and nobody holds."""
        return len(self._free)

    def n_users(self, page: int) -> int:
        """Sequences that use a page."""
        return self._n_users[page]

    def take(self) -> int:
        """A free page, used once. There must be one."""
        page = self._free.pop()
        self._n_users[page] = 1
        return page

    def use(self, page: int) -> None:
        """One more sequence uses a page that is used or held."""
        self.n_idle -= self._n_users[page] == 0
        self._n_users[page] += 1

    def leave(self, page: int) -> None:
        """A sequence has done with a page."""
        self._n_users[page] -= 1
        assert self._n_users[page] >= 0, page
        if self._n_users[page] == 0:
            if self._is_held[page]:
                self.n_idle += 1
            else:
                self._free.append(page)

    def hold(self, page: int) -> None:
        """The prefix cache holds a page that a sequence uses."""
        assert self._n_users[page] > 0, page
        assert not self._is_held[page], page
        self._is_held[page] = True

    def drop(self, page: int) -> None:
        """The prefix cache has done with a page that it holds."""
        assert self._is_held[page], page
        self._is_held[page] = False
        if self._n_users[page] == 0:
            self.n_idle -= 1
            self._free.append(page)

    @classmethod
    def of(cls, config: DecoderConfig, kv_type: KvType, *, n_pages: int, n_sequences: int) -> "PagePool":
        """Pages for a model; where it has recurrent states, slots for so many sequences that run, and one for a text that is
        computed by itself. Raises OutOfMemory."""
        return cls(
            kv_type,
            n_pages=n_pages,
            n_layers=config.n_kv_layers,
            n_kv_heads=config.n_kv_heads,
            d_head=config.d_head,
            states=None if config.delta_net is None else StatePool(config.delta_net, n_sequences + 1),
        )

    def shrink(self, pages: list[int], n_tokens: int) -> None:
        """Take the pages past the first `n_tokens` from a sequence's list."""
        keep = n_pages_for(n_tokens)
        for page in reversed(pages[keep:]):
            self.leave(page)
        del pages[keep:]

    def copy(self, source: int, target: int) -> None:
        """Make the keys and values of page `target` those of `source`."""
        for layer in self.layers:
            for array in (layer.k_PGKB, layer.v_PGBK, layer.k_scale_PGB, layer.v_scale_PGB):
                if len(array):
                    array[target] = array[source]
