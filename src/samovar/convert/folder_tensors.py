"""The tensors of a GGUF file under the names, in the order of rows and in the types of a Hugging Face folder.

Values do not change. Quantised tensors become float32. A float32 tensor beside matrices in 16 bits takes their type
where each of its values is one of that type's: GGUF files hold norms and biases in float32 whatever they came from. Of
centred norms a folder holds how far the weights are from 1; for delta nets see `delta_net`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.convert.delta_net import joined, logarithms_of
from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.safetensors_writer import FloatTensorPlan
from samovar.kernels.dequantise import dequantise
from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import folder_shape, folder_tensor_name, gguf_tensor_name, is_centred_norm
from samovar.models.loader import INTERLEAVED, LONG_ROPE_FACTORS, ROPE_FACTORS
from samovar.models.weights import half_split_order
from samovar.tensors.dtypes import BF16, F16, F32, TensorType
from samovar.tensors.stored import StoredTensor, Tensor

_CHUNK_ELEMENTS: Final = 1 << 22  # values that are dequantised at a time: 16 MiB
_EXPERTS: Final = ".mlp.experts."
_HEAD: Final = ("output.weight",)
_CLASSIFIER: Final = ("cls.output.weight", "cls.output.bias")
_QKV, _Z, _JOINED = (f".in_proj_{part}.weight" for part in ("qkv", "z", "qkvz"))
_ONE: Final = np.float32(1)

_Change = Callable[[StoredTensor, NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor of the folder: one of the file, several joined, or one expert's of a stack. `change` makes its values of those
    of the file, where they are others, in float32."""

    name: str
    tensor: Tensor
    order: NDArray[np.int64] | None = None
    change: _Change | None = None


def folder_tensors(checkpoint: GgufCheckpoint, config: DecoderConfig) -> tuple[list[FloatTensorPlan], TensorType]:
    """What a folder of this model holds, and the type that most of it is in.

    Raises UnsupportedModel for a tensor that has no name there.
    """
    main = _main_type(checkpoint)
    plans = []
    left_out = {ROPE_FACTORS, *LONG_ROPE_FACTORS.values(), *(_HEAD if config.outputs.kind == "labels" else _CLASSIFIER)}
    for name in sorted(checkpoint.tensors.keys() - left_out, key=_place):
        for piece in _pieces(name, checkpoint, config):
            kind = _type_of(piece, main)
            tensor = piece.tensor
            plans.append(
                FloatTensorPlan(
                    name=piece.name,
                    type=kind,
                    shape=tensor.shape,
                    chunks=partial(_chunks, piece, kind),
                    size_bytes=tensor.n_elements * kind.block_bytes,
                )
            )
    return plans, main


def is_predicting_layer(name: str, config: DecoderConfig) -> bool:
    """Whether a tensor, by its GGUF name, is of a layer that only predicts several tokens at once: folders have none."""
    return config.delta_net is not None and name.startswith("blk.") and _place(name)[0] >= config.n_layers


def _place(name: str) -> tuple[int, str]:
    """Sorts layers by number, between the embedding and what follows them."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) > 1 and parts[1].isdecimal():
        return int(parts[1]), name
    return (-1 if name.startswith("token_embd") else 1 << 30), name


def _main_type(checkpoint: GgufCheckpoint) -> TensorType:
    """The type of most values that lie in matrices; float32 where those are quantised."""
    counts: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) > 1:
            counts[tensor.type.name] += tensor.n_elements
    return {"F16": F16, "BF16": BF16}.get(counts.most_common(1)[0][0] if counts else "", F32)


def _pieces(file_name: str, checkpoint: GgufCheckpoint, config: DecoderConfig) -> Iterator[_Piece]:
    tensor = checkpoint.tensors[file_name]
    if is_predicting_layer(file_name, config):
        return
    try:
        name = folder_tensor_name(file_name, config.architecture)
    except KeyError:
        raise UnsupportedModel(
            f"{tensor.source}: tensor {tensor.name!r} has no name in a Hugging Face folder that this version knows"
        ) from None
    if config.outputs.kind == "none":
        name = name.removeprefix("model.")  # as models without a head are published
    net = config.delta_net
    if net is not None and name.endswith(_Z):
        return  # joined with the following
    if net is not None and name.endswith(_QKV):
        z = checkpoint.tensors[gguf_tensor_name(name.replace(_QKV, _Z), config.architecture)]
        yield _Piece(name.replace(_QKV, _JOINED), joined(tensor, z, net))
        return
    if _EXPERTS not in name:
        order = _order(name, tensor.shape[0], config)
        if order is not None and len(tensor.shape) == 1:
            tensor, order = tensor.stored().take_rows(order), None
        change: _Change | None = None
        if name.endswith(".A_log"):
            change = logarithms_of
        elif config.has_centred_norms and is_centred_norm(name):
            change = _centred
        yield _Piece(name, replace(tensor, shape=folder_shape(file_name, tensor.shape)), order, change)
        return
    before, after = name.split(_EXPERTS)
    experts = tensor.stored()
    for expert in range(experts.shape[0]):
        yield _Piece(f"{before}{_EXPERTS}{expert}.{after}", experts.entry(expert))


def _order(name: str, n_rows: int, config: DecoderConfig) -> NDArray[np.int64] | None:
    """The order of rows, where the file has them for interleaved rotation."""
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}.get(name.split(".")[-2])
    return half_split_order(n_rows, heads) if heads and config.architecture in INTERLEAVED else None


def _type_of(piece: _Piece, main: TensorType) -> TensorType:
    tensor = piece.tensor
    if tensor.type != F32 and piece.change is None:
        return tensor.type if tensor.type.is_float else F32
    if main == F32:
        return F32
    return main if all(_is_exact(chunk, main) for chunk in _values(piece)) else F32


def _is_exact(values: NDArray[np.float32], kind: TensorType) -> bool:
    if kind == BF16:
        return not np.any(values.view(np.uint32) & 0xFFFF)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32).view(np.uint32), values.view(np.uint32)))


def _values(piece: _Piece) -> Iterator[NDArray[np.float32]]:
    """The values, flat, some rows at a time. Raises FormatError for one that is no finite number."""
    tensor, order = piece.tensor.stored(), piece.order
    rows = tensor.rows()
    step = max(1, _CHUNK_ELEMENTS // tensor.shape[-1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step] if order is None else rows[order[start : start + step]]
        values = _finite(tensor, part)
        yield values if piece.change is None else piece.change(tensor, values)
    piece.tensor.release()


def _centred(tensor: StoredTensor, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far a norm's weights are from 1. Raises UnsupportedModel where 1 and that do not make the weight again."""
    found = values - _ONE
    if (lost := np.flatnonzero(found + _ONE != values)).size:
        raise UnsupportedModel(
            f"{tensor.source}: tensor {tensor.name!r} holds {values[lost[0]]!r}, and a folder holds 1 less, in float32, which "
            "rounds it: it would be another model; use the GGUF file itself"
        )
    return found


def _finite(tensor: StoredTensor, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = dequantise(tensor.type, np.ascontiguousarray(rows).reshape(-1))
    if not np.isfinite(values).all():
        raise FormatError(
            f"{tensor.source}: tensor {tensor.name!r} holds infinite values or such as are no numbers: the file is damaged; "
            "copy or download it again"
        )
    return values


def _chunks(piece: _Piece, kind: TensorType) -> Iterator[bytes]:
    if piece.tensor.type == kind and piece.change is None:  # bytes as they are
        tensor = piece.tensor.stored()
        rows = tensor.rows()
        step = max(1, _CHUNK_ELEMENTS // tensor.shape[-1])
        for start in range(0, len(rows), step):
            part = rows[start : start + step] if piece.order is None else rows[piece.order[start : start + step]]
            _finite(tensor, part)
            yield part.tobytes()
        piece.tensor.release()
        return
    for values in _values(piece):
        if kind == F32:
            yield values.tobytes()
        elif kind == BF16:
            yield (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            yield values.astype(np.float16).tobytes()
