"""llama.cpp's quantisers, by way of the library that llama-cpp-python brings: the peer of ours."""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_POINTER = ctypes.c_void_p


@cache
def _library() -> ctypes.CDLL:
    import llama_cpp

    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, _POINTER, _POINTER, *[ctypes.c_int64] * 3, _POINTER]
    return library


def ggml_quantise(
    type_id: int, row_bytes: int, x_NK: NDArray[np.float32], importance_K: NDArray[np.float32] | None
) -> NDArray[np.uint8]:
    """[N, row bytes]: what `ggml_quantize_chunk` makes of the rows in the type of GGUF's number `type_id`."""
    library, x_NK = _library(), np.ascontiguousarray(x_NK, np.float32)
    out = np.empty((len(x_NK), row_bytes), np.uint8)
    library.ggml_quantize_init(type_id)
    weights = None if importance_K is None else np.ascontiguousarray(importance_K, np.float32)
    n_bytes = library.ggml_quantize_chunk(
        type_id, x_NK.ctypes.data, out.ctypes.data, 0, *x_NK.shape, None if weights is None else weights.ctypes.data
    )
    assert n_bytes == out.nbytes, (n_bytes, out.nbytes)
    return out
