"""Looks through stored weights for scales that are no numbers, and for stretches that were never written.

Only what can be infinite or NaN in a block is looked at: its scales, or its values where the type is plain. That reads a file
about as fast as the disk gives it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import SamovarError
from samovar.kernels.dequantise import dequantise
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import Tensor

Progress = Callable[[int, int, str], None]
_U8 = NDArray[np.uint8]

_CHUNK_BYTES: Final = 1 << 20
_SAMPLED_BYTES: Final = 512 << 20  # of the whole model; smaller ones are looked through
_MIN_PER_TENSOR: Final = 64 << 10
_HOLE_BYTES: Final = 64 << 10  # a longer run of zero bytes was never written
_MAY_HAVE_ZEROS: Final = ("embd", "embed_tokens", "output.weight", "lm_head", ".bias")

# By type: which bytes of a block are scales, and of which float type.
_SCALES: Final[Mapping[str, tuple[int, int, str]]] = {
    "Q4_0": (0, 2, "f16"), "Q4_1": (0, 4, "f16"), "Q5_0": (0, 2, "f16"), "Q5_1": (0, 4, "f16"), "Q8_0": (0, 2, "f16"),
    "Q2_K": (80, 84, "f16"), "Q3_K": (108, 110, "f16"), "Q4_K": (0, 4, "f16"), "Q5_K": (0, 4, "f16"), "Q6_K": (208, 210, "f16"),
    "IQ4_NL": (0, 2, "f16"), "IQ4_XS": (0, 2, "f16"), "MXFP4": (0, 1, "e8m0"), "F16": (0, 2, "f16"), "BF16": (0, 2, "bf16"),
    "F32": (0, 4, "f32"),
}  # fmt: skip
_EXPONENTS: Final = {"f16": ("<u2", 0x7C00), "bf16": ("<u2", 0x7F80), "f32": ("<u4", 0x7F800000), "e8m0": ("u1", 0xFF)}


@dataclass(slots=True)
class Scan:
    """What was seen. `bad` and `holes` have, by tensor, how many blocks and where the first is; `broken` why one has no blocks.

    Counts are in bytes.
    """

    n_seen: int = 0
    n_all: int = 0
    n_tensors: int = 0
    bad: dict[str, tuple[int, int]] = field(default_factory=dict)
    holes: dict[str, int] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every byte was looked at."""
        return self.n_seen == self.n_all


def bytes_to_scan(tensors: Mapping[str, Tensor], *, is_full: bool) -> int:
    """About how many bytes `scan` will look at."""
    share = _share(tensors, is_full=is_full)
    return sum(min(tensor.size_bytes, share) for tensor in tensors.values())


def scan(tensors: Mapping[str, Tensor], *, is_full: bool, progress: Progress = lambda _done, _total, _what: None) -> Scan:
    """Look through all of every tensor, or through evenly spaced chunks of each where the model is large.

    `progress(done_bytes, total_bytes, tensor)` is called as it goes.
    """
    seen = Scan()
    share, total = _share(tensors, is_full=is_full), bytes_to_scan(tensors, is_full=is_full)
    for name, tensor in tensors.items():
        progress(min(seen.n_seen, total), total, name)
        seen.n_tensors += 1
        seen.n_all += tensor.size_bytes
        try:
            stored = tensor.stored()
        except SamovarError as error:
            seen.broken[name] = str(error)
            continue
        blocks = stored.data.reshape(-1, stored.type.block_bytes)
        for start, stop in _chunks(len(blocks), stored.type.block_bytes, share):
            _look(seen, name, stored.type, start, blocks[start:stop])
        tensor.release()
    progress(total, total, "")
    return seen


def _share(tensors: Mapping[str, Tensor], *, is_full: bool) -> int:
    """Bytes to look at of each tensor at most."""
    total = sum(t.size_bytes for t in tensors.values())
    return total if is_full or total <= _SAMPLED_BYTES else max(_MIN_PER_TENSOR, _SAMPLED_BYTES // len(tensors))


def _chunks(n_blocks: int, block_bytes: int, share: int) -> list[tuple[int, int]]:
    """Ranges of blocks to look at: all of them, or as many bytes as `share`, evenly spaced, the last ones among them."""
    if n_blocks * block_bytes <= share:
        step = max(1, _CHUNK_BYTES // block_bytes)
        return [(start, min(n_blocks, start + step)) for start in range(0, n_blocks, step)]
    step = max(1, _HOLE_BYTES // block_bytes + 1)
    n_chunks = max(1, share // (step * block_bytes))
    last = max(0, n_blocks - step)
    return [(start, start + step) for start in (last * (i + 1) // n_chunks for i in range(n_chunks))]


def _look(seen: Scan, name: str, kind: TensorType, start: int, blocks: _U8) -> None:
    seen.n_seen += blocks.size
    bad = _bad_blocks(kind, blocks)
    if bad.any():
        count, first = seen.bad.get(name, (0, start + int(bad.argmax())))
        seen.bad[name] = (count + int(bad.sum()), first)
    if not any(part in name for part in _MAY_HAVE_ZEROS) and _has_hole(blocks):
        seen.holes.setdefault(name, start)


def _has_hole(blocks: _U8) -> bool:
    """Whether one of the stretches that the blocks divide into holds nothing but zero bytes."""
    flat = np.ascontiguousarray(blocks).reshape(-1)
    n_stretches = len(flat) // _HOLE_BYTES
    stretches = flat[: n_stretches * _HOLE_BYTES].reshape(n_stretches, _HOLE_BYTES)
    suspects = stretches[~stretches[:, ::509].any(axis=1)]
    return bool((~suspects.any(axis=1)).any())


def _bad_blocks(kind: TensorType, blocks: _U8) -> NDArray[np.bool_]:
    """[n]: whether a scale of the block is infinite or no number."""
    place = _SCALES.get(kind.name)
    if place is None:
        values = dequantise(kind, np.ascontiguousarray(blocks).reshape(-1))
        is_bad = ~np.isfinite(values).reshape(len(blocks), -1)
    else:
        start, stop, floats = place
        dtype, exponent = _EXPONENTS[floats]
        bits = np.ascontiguousarray(blocks[:, start:stop]).view(dtype)
        is_bad = np.equal(bits & np.array(exponent, bits.dtype), exponent)
    found: NDArray[np.bool_] = is_bad.any(axis=1)
    return found
