"""Whether the scales of a quantised weight are numbers to compute with; native kernels look at them as they pack."""

import numpy as np

from samovar.errors import FormatError
from samovar.kernels.dequantise import dequantise
from samovar.tensors.dtypes import GROUPED_TYPES, INT4_ROWS
from samovar.tensors.stored import StoredTensor

_CHUNK_BLOCKS = 1 << 16


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
