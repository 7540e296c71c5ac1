"""GGUF files in which one vector is another."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samovar.formats.gguf import GgufCheckpoint, read_gguf


def with_vector(path: Path, name: str, values: NDArray[np.float32]) -> GgufCheckpoint:
    """The file at `path`, whose tensor `name`, in float32, now holds `values`."""
    data, stored = bytearray(path.read_bytes()), read_gguf(path).tensors[name].stored()
    at = data.index(stored.data.tobytes())
    data[at : at + stored.size_bytes] = values.astype(np.float32).tobytes()
    path.write_bytes(data)
    return read_gguf(path)
