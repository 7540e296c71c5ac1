"""A 64-bit checksum of bytes at the speed of memory: it finds damage, and is no defence against an adversary.

The definition stands in native/checksum.h; `checksum_numpy` is its plain form, used where the native kernels are missing.
"""

import importlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.native import native_missing_reason

if TYPE_CHECKING:
    from samovar._native import Checker

_CHUNK_BYTES, _BLOCK_WORDS = 256 << 10, 1024
_FOLD, _MASK = 0x9E3779B185EBCA87, (1 << 64) - 1


def checksum(data: NDArray[np.uint8]) -> int:
    """The checksum of a flat array."""
    if native_missing_reason() is None:
        return int(importlib.import_module("samovar._native").checksum(data))
    return checksum_numpy(data)


def start_checks(pieces: list[NDArray[np.uint8]], expected: list[int], n_threads: int) -> "Checker":
    """Begin to compute the checksums of flat arrays, in order, in native threads, which need not wait for the interpreter.

    `is_sound(n)` of what is returned waits for array n, and says whether its checksum is the one expected.
    """
    checker: Checker = importlib.import_module("samovar._native").Checker(pieces, expected, n_threads)
    return checker


def checksum_numpy(data: NDArray[np.uint8]) -> int:
    """As `checksum`, in NumPy."""
    chunks = (data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES))
    return _fold(len(data), [_fold(len(chunk), _block_sums(chunk)) for chunk in chunks])


def _block_sums(chunk: NDArray[np.uint8]) -> list[int]:
    block_bytes = 8 * _BLOCK_WORDS
    n_words = -(-len(chunk) // 8)
    padded = np.zeros(-(-len(chunk) // block_bytes) * block_bytes, np.uint8)
    padded[: len(chunk)] = chunk
    w = padded.view("<u8").reshape(-1, _BLOCK_WORDS)
    x = w ^ _keys()
    terms = (x & np.uint64(0xFFFFFFFF)) * (x >> np.uint64(32)) + w
    terms.reshape(-1)[n_words:] = 0
    return [int(total) for total in terms.sum(axis=1, dtype=np.uint64)]


def _fold(h: int, values: list[int]) -> int:
    for value in values:
        h = ((h ^ value) * _FOLD) & _MASK
    return h


@cache
def _keys() -> NDArray[np.uint64]:
    """Outputs of splitmix64 (Steele, Lea and Flood, 2014) from seed 0."""
    z = np.arange(1, _BLOCK_WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
