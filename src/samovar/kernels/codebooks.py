"""The codebooks of GGUF's types IQ1 to IQ3: tables of up to 2048 entries that were found by search and follow from no formula.

They are not copied here: the package `gguf`, by the authors of the format, has them as data. It is imported when a file of such
a type is first opened, and by nothing else.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import SamovarError

_SHAPES: Final = {
    "IQ1_S": (2048, 8),
    "IQ1_M": (2048, 8),
    "IQ2_XXS": (256, 8),
    "IQ2_XS": (512, 8),
    "IQ2_S": (1024, 8),
    "IQ3_XXS": (256, 4),
    "IQ3_S": (512, 4),
}
CODEBOOK_TYPES: Final = frozenset(_SHAPES)


@dataclass(frozen=True, slots=True)
class Codebook:
    """`codes` [entries, 8 or 4] number the magnitudes of `values`, which are -1, 0, 1 of the types IQ1."""

    codes: NDArray[np.uint8]
    values: NDArray[np.float32]

    def entries(self) -> NDArray[np.float32]:
        """[entries, 8 or 4]: the magnitudes themselves."""
        found: NDArray[np.float32] = self.values[self.codes]
        return found


@cache
def codebook(type_name: str) -> Codebook:
    """The codebook of one of `CODEBOOK_TYPES`. Raises SamovarError where `gguf` is missing or has another table."""
    try:
        quants = importlib.import_module("gguf.quants")
    except ImportError as error:
        raise SamovarError(
            f"tensors of type {type_name} need the package gguf, whose tables define it, and it cannot be imported ({error}): "
            "pip install gguf"
        ) from error
    table, shape = getattr(quants, type_name, None), _SHAPES[type_name]
    if (
        table is None
        or tuple(table.grid_shape) != shape
        or len(table.grid_hex) != shape[0] * shape[1] * _bits(table.grid_map) // 4
    ):
        raise SamovarError(f"the package gguf has no table of {shape} for {type_name}: pip install -U gguf")
    packed = np.frombuffer(bytes.fromhex(bytes(table.grid_hex).decode("ascii")), np.uint8)
    bits = _bits(table.grid_map)
    codes = (packed[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    return Codebook(codes.reshape(shape), np.array(table.grid_map, np.float32))


def _bits(values: Sequence[int]) -> int:
    """That a code takes in a table: whole fractions of a byte."""
    return 2 if len(values) <= 4 else 4
