"""What GGUF files hold of a gated delta net otherwise than folders do.

A folder joins queries, keys, values and z of a key head, a file has those of all heads one after the other, and z apart. A
folder has logarithms of rates (A_log), a file the rates themselves, in float32, with a minus. Source: llama.cpp's converter
(`Qwen3NextModel`).

A rate is the exponential of A_log rounded to float32. That of a logarithm in 16 bits leads back to it. One in float32 comes
back as another that makes the same rate where it is below 1 in magnitude: such logarithms lie closer than rates. Above 1 they
lie further apart than rates, so a file may hold a rate that no A_log makes. What does not come back is kept, see `forms`.

Shape letters: H value heads.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.dequantise import dequantise
from samovar.models.config import DeltaNetConfig
from samovar.models.qwen3_next import mixed_rows, rates
from samovar.tensors.dtypes import F32 as F32_TYPE
from samovar.tensors.stored import AssembledTensor, Tensor

F32 = NDArray[np.float32]
_OTHER_EXPONENTIALS: Final = 2.0**-22  # by how much those of other programs may be off, of their value: some last bits
_TOLD_APART: Final = 2.0**-12  # of this and more in magnitude, numbers in 16 bits have rates further apart than their rounding


def logarithms(rate_H: F32) -> F32:
    """A_log for some rates; no number for one below 0.

    If all are exponentials of numbers in bfloat16 or float16, as of models that are published in these, then these numbers; a
    rate may be off by the rounding of the program that made it. Else, and where they are so small that rates do not tell
    them apart, the nearest in float32.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # rates of 0, without end, and below 0
        log_H = np.log(rate_H.astype(np.float64)).astype(np.float32)
        bfloat16_H = ((log_H.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
        for rounded_H in (bfloat16_H, log_H.astype(np.float16).astype(np.float32)):
            short_H = np.where(np.abs(log_H) < _TOLD_APART, log_H, rounded_H)
            if np.all(np.abs(rates(short_H) - rate_H) <= _OTHER_EXPONENTIALS * rate_H):
                return short_H
        return log_H


def joined(qkv: Tensor, z: Tensor, net: DeltaNetConfig) -> AssembledTensor:
    """The rows of a folder's in_proj_qkvz, in the type of both tensors, or in float32."""
    type_ = qkv.type if qkv.type == z.type else F32_TYPE
    order = np.argsort(np.concatenate(list(mixed_rows(net).values())))

    def make() -> tuple[NDArray[np.uint8], None]:
        rows = [
            tensor.rows()
            if tensor.type == type_
            else dequantise(tensor.type, tensor.data).view(np.uint8).reshape(tensor.shape[0], -1)
            for tensor in (qkv.stored(), z.stored())
        ]
        return np.concatenate(rows)[order].reshape(-1), None

    def release() -> None:
        qkv.release()
        z.release()

    return AssembledTensor(
        name=qkv.name, type=type_, shape=(len(order), qkv.shape[1]), source=qkv.source, make=make, release=release
    )
