"""Numbers and bit fields out of the bytes of stored blocks, in NumPy.

In this file `n` is a number of blocks, and `blocks` is uint8 [n, block_bytes].
"""

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


def half(blocks: U8, start: int) -> F32:
    """[n, 1]: the float16 at byte `start` of each block."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def fields(packed: U8, width: int, bits: int, nfields: int) -> U8:
    """Unpack bit fields: [n, bytes] to [n, bytes / width, nfields, width], lowest bits first, other bits masked off."""
    shifts = np.arange(0, nfields * bits, bits, dtype=np.uint8).reshape(1, 1, nfields, 1)
    found: U8 = packed.reshape(len(packed), -1, 1, width) >> shifts
    found &= np.uint8((1 << bits) - 1)
    return found


def nibbles(packed: U8, width: int) -> U8:
    """[n, bytes / width, 2, width]: runs of `width` low nibbles, each followed by its high nibbles."""
    return fields(packed, width, 4, 2)
