"""Whether weights, and what is computed of them, are numbers. Native kernels look at the scales of weights as they pack."""

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, SamovarError
from samovar.kernels.dequantise import dequantise
from samovar.tensors.dtypes import GROUPED_TYPES, INT4_ROWS
from samovar.tensors.stored import StoredTensor

_CHUNK_BLOCKS = 1 << 16
NUMBER_EXPECTED = "expected a number: the model's file is damaged, or its values overflow"


def has_finite_scales(weight: StoredTensor) -> bool:
    """Whether no scale is infinite or no number; the values of float types are not looked at."""
    if weight.type.block_elements == 1:
        return True
    if weight.type in (*GROUPED_TYPES, INT4_ROWS):
        return bool(np.isfinite(weight.data.reshape(-1, weight.type.block_bytes)[:, :4].copy().view("<f4")).all())
    step = _CHUNK_BLOCKS * weight.type.block_bytes
    parts = (weight.data[start : start + step] for start in range(0, weight.data.size, step))
    return all(np.isfinite(dequantise(weight.type, part)).all() for part in parts)


def scales_not_finite(weight: StoredTensor) -> FormatError:
    """What is raised for such a weight."""
    return FormatError(
        f"{weight.source}: tensor {weight.name!r} ({weight.type.name}) has a scale that is infinite or no number; "
        "every scale has to be finite: the file is damaged, copy or download it again"
    )


def finite_values(weight: StoredTensor) -> NDArray[np.float32]:
    """A copy of all values, for weights that are small. Raises FormatError where one is infinite or no number."""
    values = dequantise(weight.type, weight.data).copy()
    if not np.isfinite(values).all():
        raise FormatError(
            f"{weight.source}: tensor {weight.name!r} holds infinite values or such as are no numbers: the file is damaged, "
            "copy or download it again"
        )
    return values


def check_computed(values: NDArray[np.float32], what: str) -> None:
    """Raises SamovarError where a value that a model computed is infinite or no number; `what` names it."""
    if not np.isfinite(values).all():
        raise SamovarError(f"{what} is {values[~np.isfinite(values)][0]}, {NUMBER_EXPECTED}")
