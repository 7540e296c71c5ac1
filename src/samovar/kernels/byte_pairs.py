"""Byte-pair encoding on `samovar._native`: a flat table, which may be mapped, and its encoder."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samovar._native import BytePairs

WORDS = ("gpt-2", "smollm", "qwen2", "llama-bpe")  # the rules that cut texts into words, in the order of native/bpe.h


def build_byte_pairs(
    pieces: Sequence[str],
    merges: Sequence[str],
    roles: NDArray[np.uint8],
    char_classes: NDArray[np.uint8],
    *,
    words: str,
    looks_up_words: bool,
) -> NDArray[np.uint8]:
    """A table of byte pairs. Raises ValueError where merges do not fit the pieces, see native/bpe.h for the arguments."""
    native = importlib.import_module("samovar._native")
    table: NDArray[np.uint8] = native.build_byte_pairs(
        list(pieces), list(merges), roles, char_classes, WORDS.index(words), looks_up_words
    )
    return table


def open_byte_pairs(table: NDArray[np.uint8]) -> "BytePairs":
    """The encoder of a table. Raises ValueError for bytes that are none; ids of a damaged one are wrong, never unsafe."""
    encoder: BytePairs = importlib.import_module("samovar._native").BytePairs(table)
    return encoder
