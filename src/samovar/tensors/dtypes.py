"""The element types that tensors have on disk: names, block sizes, and their ids in GGUF.

A type stores `block_elements` consecutive values of a row in `block_bytes` bytes; plain types have blocks of one.
Source: the GGUF specification and `ggml.h` for ids and sizes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorType:
    """One storage type. `ggml_id` is its number in a GGUF file."""

    name: str
    ggml_id: int
    block_elements: int
    block_bytes: int

    @property
    def is_float(self) -> bool:
        """True for F32, F16 and BF16."""
        return self.block_elements == 1

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for one value, scales included."""
        return 8 * self.block_bytes / self.block_elements


F32 = TensorType("F32", 0, 1, 4)
F16 = TensorType("F16", 1, 1, 2)
Q4_0 = TensorType("Q4_0", 2, 32, 18)
Q4_1 = TensorType("Q4_1", 3, 32, 20)
Q5_0 = TensorType("Q5_0", 6, 32, 22)
Q5_1 = TensorType("Q5_1", 7, 32, 24)
Q8_0 = TensorType("Q8_0", 8, 32, 34)
Q2_K = TensorType("Q2_K", 10, 256, 84)
Q3_K = TensorType("Q3_K", 11, 256, 110)
Q4_K = TensorType("Q4_K", 12, 256, 144)
Q5_K = TensorType("Q5_K", 13, 256, 176)
Q6_K = TensorType("Q6_K", 14, 256, 210)
IQ4_NL = TensorType("IQ4_NL", 20, 32, 18)
IQ4_XS = TensorType("IQ4_XS", 23, 256, 136)
BF16 = TensorType("BF16", 30, 1, 2)
MXFP4 = TensorType("MXFP4", 39, 32, 17)
NVFP4 = TensorType("NVFP4", 40, 64, 36)

TENSOR_TYPES: tuple[TensorType, ...] = (
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, NVFP4,
)  # fmt: skip
TYPE_BY_GGML_ID: dict[int, TensorType] = {t.ggml_id: t for t in TENSOR_TYPES}
TYPE_BY_NAME: dict[str, TensorType] = {t.name: t for t in TENSOR_TYPES}
