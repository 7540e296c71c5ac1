"""How much each column of a matrix counts: the mean square of the input that it is multiplied with, over some text.

Shape letters: E matrices of a stack (1 for a plain matrix), K columns.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from samovar.errors import FormatError
from samovar.kernels import F32

_LEAST: Final = np.float32(1e-4)  # of the mean: columns that the text never used still have to be about right


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Mean squares [E, K] by the GGUF names of tensors. `origin` is the text or file they come from."""

    mean_squares: Mapping[str, F32]
    origin: str

    @cached_property
    def digest(self) -> bytes:
        """Stands for all numbers."""
        digest = hashlib.sha256()
        for name in sorted(self.mean_squares):
            digest.update(name.encode())
            digest.update(self.mean_squares[name].tobytes())
        return digest.digest()

    def of(self, name: str, shape: tuple[int, ...]) -> F32 | None:
        """[E, K], positive and 1 on average in each row; None where nothing is known of the tensor.

        Raises FormatError where the numbers do not fit the tensor, or are no mean squares.
        """
        found_EK = self.mean_squares.get(name)
        if found_EK is None:
            return None
        expected = (shape[0] if len(shape) == 3 else 1, shape[-1])
        if len(found_EK) == 1 and found_EK.size == expected[0] * expected[1]:  # all experts in one row
            found_EK = found_EK.reshape(expected)
        if found_EK.shape != expected:
            raise FormatError(
                f"{self.origin}: importance of tensor {name!r} has shape {list(found_EK.shape)}; the model asks for "
                f"{list(expected)}: it was made for another model"
            )
        if not np.isfinite(found_EK).all() or (found_EK < 0).any():
            raise FormatError(
                f"{self.origin}: importance of tensor {name!r} holds a negative number or none; mean squares are expected"
            )
        mean_E1 = found_EK.mean(axis=1, keepdims=True, dtype=np.float64)
        even_EK = np.where(mean_E1 > 0, found_EK / np.where(mean_E1 > 0, mean_E1, 1), 1)
        return np.ascontiguousarray(np.maximum(even_EK.astype(np.float32), _LEAST))
