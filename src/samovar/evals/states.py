"""A model's last hidden states over windows, and its logits from them a few rows at a time.

Logits of a long text do not fit into memory, its states do: so those of the reference go into a file of no name, its layers are
let go, and its output head alone stays beside the models that are held against it.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Slice, build_batch
from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.paged_attend import PagedAttend
from samovar.engine.request import Request, SamplingParams
from samovar.engine.sequence import Sequence
from samovar.errors import StoreError
from samovar.evals.windows import Windows, chunks
from samovar.kernels import KvType, Ops
from samovar.models.blocks import Decoder, Step

F32 = NDArray[np.float32]
PIECE_ROWS: Final = 64  # whose logits are there at a time: 39 MB of a vocabulary of 152 thousand
_STEP_TOKENS: Final = 512


class StateSource:
    """Runs a decoder over windows, with keys and values of its own."""

    def __init__(self, model: Decoder, ops: Ops, kv_type: KvType, max_window: int) -> None:
        self.model, self.ops = model, ops
        self._pool = PagePool.of(model.config, kv_type, n_pages=n_pages_for(max_window), n_sequences=1)

    def states(self, ids: tuple[int, ...], n_skipped: int) -> F32:
        """[R, D]: the states from which the tokens after the first `n_skipped` are foretold, R of them."""
        sequence = Sequence(request=Request(prompt_ids=ids, sampling=SamplingParams()), token_ids=list(ids))
        sequence.pages.extend(range(n_pages_for(len(ids))))
        sequence.state = None if self._pool.states is None else 0
        first, last = n_skipped - 1, len(ids) - 1
        parts = []
        for start, part in chunks(ids, _STEP_TOKENS):
            batch = build_batch([Slice(sequence, start, part, 0)])
            step = Step(self.ops, PagedAttend(self.ops, self._pool, batch), *self.model.angles(batch.positions_T))
            rows = range(max(0, first - start), min(len(part), last - start))
            x_SD = self.model.hidden(batch.ids_T, np.array(rows or [0], np.int64), step)
            parts.append(x_SD[: len(rows)].copy())
        return np.concatenate(parts)

    def pieces(self, x_RD: F32) -> Iterator[F32]:
        """Logits [rows, V] of states, up to PIECE_ROWS at a time."""
        for start in range(0, len(x_RD), PIECE_ROWS):
            yield self.model.logits(np.ascontiguousarray(x_RD[start : start + PIECE_ROWS]), self.ops)


class KeptStates:
    """The states of a reference over all windows, in a temporary file; its layers are not needed any more. A context."""

    def __init__(self, source: StateSource, windows: Windows, progress: Callable[[int], None]) -> None:
        """Compute them; `progress` is told of tokens as they are done. Raises StoreError where the disk has no room."""
        shape = (windows.n_scored, source.model.config.d_model)
        n_bytes = 4 * shape[0] * shape[1]
        try:
            self._file = tempfile.TemporaryFile(prefix="samovar-quality-")  # noqa: SIM115  # closed by __exit__
            os.posix_fallocate(self._file.fileno(), 0, n_bytes)  # a full disk shows here, and not as a signal later
        except OSError as error:
            raise StoreError(
                f"{tempfile.gettempdir()}: no room for {n_bytes >> 20} MiB ({error.strerror or error}): make some, point "
                "TMPDIR at another disk, or use a shorter text (--tokens)"
            ) from error
        self._states_ND = np.memmap(self._file, np.float32, "r+", shape=shape)
        at = 0
        for ids in windows.ids:
            x_RD = source.states(ids, windows.n_skipped)
            self._states_ND[at : at + len(x_RD)] = x_RD
            at += len(x_RD)
            progress(len(ids))
        source.model.wait(len(source.model.layers))
        self.head = replace(source.model, layers=(), wait=_ready)
        self.ops = source.ops

    def __enter__(self) -> "KeptStates":
        return self

    def __exit__(self, *_: object) -> None:
        del self._states_ND
        self._file.close()

    def logits(self, start: int, stop: int) -> F32:
        """[R, V] of the rows `start` to `stop` of all windows laid end to end."""
        return self.head.logits(np.array(self._states_ND[start:stop]), self.ops)


def _ready(part: int) -> None:
    """The head was packed before its first use."""
