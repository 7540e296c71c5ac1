"""ggml as a witness: the reference conversions of the library that comes with `llama-cpp-python`, by way of ctypes."""

import ctypes
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samovar.tensors.dtypes import TensorType


@dataclass(frozen=True, slots=True)
class Ggml:
    """The loaded library."""

    library: ctypes.CDLL

    def dequantise(self, type_: TensorType, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The values of a flat run of blocks."""
        n = data.size // type_.block_bytes * type_.block_elements
        out = np.empty(n, np.float32)
        data = np.ascontiguousarray(data)
        convert = self.library[f"dequantize_row_{_c_name(type_)}"]
        convert.argtypes, convert.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
        convert(data.ctypes.data, out.ctypes.data, n)
        return out

    def quantise(self, type_: TensorType, values_ND: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The blocks of a matrix, every input equally important."""
        n_rows, n_in = values_ND.shape
        values_ND = np.ascontiguousarray(values_ND, np.float32)
        importance_D = np.ones(n_in, np.float32)
        out = np.empty(n_rows * n_in // type_.block_elements * type_.block_bytes, np.uint8)
        self.library.ggml_quantize_init(type_.ggml_id)
        convert = self.library.ggml_quantize_chunk
        convert.restype = ctypes.c_size_t
        convert.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
        pointers = values_ND.ctypes.data, out.ctypes.data
        written = convert(type_.ggml_id, *pointers, 0, n_rows, n_in, importance_D.ctypes.data)
        assert written == out.size
        return out


def _c_name(type_: TensorType) -> str:
    """Q4_K is q4_K there, all else in small letters."""
    return type_.name[:-1].lower() + "K" if type_.name.endswith("_K") else type_.name.lower()


def load_ggml() -> Ggml:
    """The library. Skips the test where it is not installed."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        pytest.skip("llama-cpp-python is not there: `make bench` builds it, in ten minutes or more")
    return Ggml(ctypes.CDLL(str(Path(spec.origin).parent / "lib/libggml-base.so")))
