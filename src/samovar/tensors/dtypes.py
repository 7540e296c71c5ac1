"""The element types that tensors have on disk: names, block sizes, and their ids in GGUF.

A type stores `block_elements` consecutive values of a row in `block_bytes` bytes; plain types have blocks of one.
Source: the GGUF specification and `ggml.h` for ids and sizes.

The grouped types are what the quantised weights of Hugging Face folders are brought into, without a change of value; their
ids, from 1000 on, are Samovar's own and stand in no file. A block has one float32 scale, and with codes of 4 or 8 bits an
integer zero point: a value is scale * (code - zero), or scale * an 8-bit float. `kernels.dequantise` has the layouts.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorType:
    """One storage type. `ggml_id` is its number in a GGUF file.

    `more_packed_bytes` is what a block takes in the compute layout of native kernels where that is more (native/formats.h).
    """

    name: str
    ggml_id: int
    block_elements: int
    block_bytes: int
    more_packed_bytes: int = 0

    @property
    def is_float(self) -> bool:
        """True for F32, F16 and BF16."""
        return self in (F32, F16, BF16)

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for one value, scales included."""
        return 8 * self.block_bytes / self.block_elements

    @property
    def packed_block_bytes(self) -> int:
        """Bytes of a block in the compute layout, rows that fill up a group of 16 and alignment aside."""
        return self.more_packed_bytes or self.block_bytes


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
IQ2_XXS = TensorType("IQ2_XXS", 16, 256, 66, 106)
IQ2_XS = TensorType("IQ2_XS", 17, 256, 74, 106)
IQ3_XXS = TensorType("IQ3_XXS", 18, 256, 98, 138)
IQ1_S = TensorType("IQ1_S", 19, 256, 50, 74)
IQ4_NL = TensorType("IQ4_NL", 20, 32, 18)
IQ3_S = TensorType("IQ3_S", 21, 256, 110, 138)
IQ2_S = TensorType("IQ2_S", 22, 256, 82, 106)
IQ4_XS = TensorType("IQ4_XS", 23, 256, 136)
IQ1_M = TensorType("IQ1_M", 29, 256, 56, 82)
BF16 = TensorType("BF16", 30, 1, 2)
TQ1_0 = TensorType("TQ1_0", 34, 256, 54, 66)
TQ2_0 = TensorType("TQ2_0", 35, 256, 66)
MXFP4 = TensorType("MXFP4", 39, 32, 17)
NVFP4 = TensorType("NVFP4", 40, 64, 36)
Q1_0 = TensorType("Q1_0", 41, 128, 18)
Q2_0 = TensorType("Q2_0", 42, 64, 18)

# Samovar's own int4 (`kernels.int4`) in memory: a block is its row's float32 scale, the byte multiplier + 16 zero code, and
# nibbles as in Q4_0. Files keep the scale once a row, see `formats.int4_rows`.
INT4_ROWS = TensorType("INT4", 999, 32, 21)

# Elements of tensors that are parts of a quantised weight, and no weights by themselves.
I8 = TensorType("I8", 24, 1, 1)
I32 = TensorType("I32", 26, 1, 4)
I64 = TensorType("I64", 27, 1, 8)
F8_E4M3 = TensorType("F8_E4M3", 1020, 1, 1)
F8_E5M2 = TensorType("F8_E5M2", 1021, 1, 1)
PART_TYPES: tuple[TensorType, ...] = (I8, I32, I64, F8_E4M3, F8_E5M2)

GROUPED_TYPES: tuple[TensorType, ...] = (
    TensorType("U4_G32", 1001, 32, 21),
    TensorType("U4_G64", 1002, 64, 37),
    TensorType("U4_G128", 1003, 128, 69),
    TensorType("U8_G32", 1004, 32, 38),
    TensorType("U8_G64", 1005, 64, 70),
    TensorType("U8_G128", 1006, 128, 134),
    TensorType("E4M3_G32", 1007, 32, 36),
    TensorType("E4M3_G64", 1008, 64, 68),
    TensorType("E4M3_G128", 1009, 128, 132),
    TensorType("E5M2_G32", 1010, 32, 36),
    TensorType("E5M2_G64", 1011, 64, 68),
    TensorType("E5M2_G128", 1012, 128, 132),
)

TENSOR_TYPES: tuple[TensorType, ...] = (
    F32, F16, BF16, Q1_0, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS,
    IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4,
)  # fmt: skip
TYPE_BY_GGML_ID: dict[int, TensorType] = {t.ggml_id: t for t in TENSOR_TYPES}
TYPE_BY_NAME: dict[str, TensorType] = {t.name: t for t in TENSOR_TYPES}
