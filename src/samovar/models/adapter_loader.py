"""A PEFT folder to an adapter that computes beside a model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError
from samovar.formats.peft_adapter import LowRankPair, read_peft_adapter
from samovar.kernels import F32, Ops
from samovar.kernels.dequantise import dequantise
from samovar.models.lora import LoraAdapter, LowRank
from samovar.tensors import dtypes
from samovar.tensors.stored import StoredTensor


def load_adapter(path: Path, projections: Mapping[str, tuple[int, int]], ops: Ops) -> LoraAdapter:
    """Read and pack a PEFT folder for the model whose linear layers are `projections` (`Decoder.projections`).

    Raises what `read_peft_adapter` raises, FormatError where a scaled value leaves float32, OutOfMemory.
    """
    pairs = read_peft_adapter(path, projections)
    return LoraAdapter(terms={name: LowRank(ops.pack(pair.a), ops.pack(_scaled(pair))) for name, pair in pairs.items()})


def _scaled(pair: LowRankPair) -> StoredTensor:
    """scale * B: in the stored type where that is exact, as it is for powers of two, else in float32."""
    b, scale = pair.b, np.float32(pair.scale)
    with np.errstate(over="ignore"):
        values = dequantise(b.type, b.data) * scale
    if not np.isfinite(values).all():
        raise FormatError(
            f"{b.source}: tensor {b.name!r} times the scale {pair.scale:g} is beyond float32; the adapter is damaged"
        )
    if b.type == dtypes.F16 and np.array_equal((half := _to_f16(values)).astype(np.float32), values):
        return replace(b, data=half.view(np.uint8))
    if b.type == dtypes.BF16 and not (values.view(np.uint32) & 0xFFFF).any():
        return replace(b, data=(values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8))
    return replace(b, type=dtypes.F32, data=values.view(np.uint8))


def _to_f16(values: F32) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)
