"""The tensors of a GGUF file under the names, in the order of rows and in the types of a Hugging Face folder.

Values do not change. Quantised tensors become float32. A float32 tensor beside matrices in 16 bits takes their type
where each of its values is one of that type's: GGUF files hold norms and biases in float32 whatever they came from. For what
a folder holds in another form see `forms`, for delta nets also `delta_net`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.convert.delta_net import joined
from samovar.convert.forms import KEPT_OF_FILE, KEPT_OF_FOLDER, Form, as_text, form_of, is_same, kept
from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.safetensors_writer import FloatTensorPlan
from samovar.kernels.dequantise import dequantise
from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import folder_shape, folder_tensor_name, gguf_tensor_name
from samovar.models.loader import INTERLEAVED, LONG_ROPE_FACTORS, ROPE_FACTORS
from samovar.models.weights import half_split_order
from samovar.tensors.dtypes import BF16, F16, F32, TensorType
from samovar.tensors.stored import StoredTensor, Tensor

_CHUNK_ELEMENTS: Final = 1 << 22  # values that are dequantised at a time: 16 MiB
_EXPERTS: Final = ".mlp.experts."
_HEAD: Final = ("output.weight",)
_CLASSIFIER: Final = ("cls.output.weight", "cls.output.bias")
_QKV, _Z, _JOINED = (f".in_proj_{part}.weight" for part in ("qkv", "z", "qkvz"))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor of the folder: one of the file, several joined, or one expert's of a stack. `kept` is the text of the file's
    values, where they do not come back from those of the folder."""

    name: str
    tensor: Tensor
    order: NDArray[np.int64] | None = None
    kept: str | None = None


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
                    metadata={} if piece.kept is None else {KEPT_OF_FILE + name: piece.kept},
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
        whole_name = folder_tensor_name(file_name, config.architecture)
    except KeyError:
        raise UnsupportedModel(
            f"{tensor.source}: tensor {tensor.name!r} has no name in a Hugging Face folder that this version knows"
        ) from None
    name = whole_name.removeprefix("model.") if config.outputs.kind == "none" else whole_name  # as those are published
    net = config.delta_net
    if net is not None and name.endswith(_Z):
        return  # joined with the following
    if net is not None and name.endswith(_QKV):
        z = checkpoint.tensors[gguf_tensor_name(whole_name.replace(_QKV, _Z), config.architecture)]
        yield _Piece(name.replace(_QKV, _JOINED), joined(tensor, z, net))
        return
    if _EXPERTS not in name:
        order = _order(name, tensor.shape[0], config)
        if order is not None and len(tensor.shape) == 1:
            tensor, order = tensor.stored().take_rows(order), None
        tensor = replace(tensor, shape=folder_shape(file_name, tensor.shape))
        form = form_of(name, config)
        yield _Piece(name, tensor, order) if form is None else _from_form(name, tensor.stored(), form, checkpoint)
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
    if tensor.type != F32:
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
        yield _finite(tensor, part)
    piece.tensor.release()


def _from_form(name: str, tensor: StoredTensor, form: Form, checkpoint: GgufCheckpoint) -> _Piece:
    """A vector that a folder holds in another form. Raises UnsupportedModel for one that it cannot hold."""
    held = _finite(tensor, tensor.rows())
    values = kept(checkpoint.metadata, KEPT_OF_FOLDER, tensor.name, form.to_file, held)
    if values is None:
        values = form.to_folder(held)
    if (wrong := np.flatnonzero(~np.isfinite(values))).size:
        raise UnsupportedModel(
            f"{tensor.source}: tensor {tensor.name!r} holds {held[wrong[0]]}, and a folder holds the logarithm of what has a "
            "minus before it here, so values below 0 are expected; use the GGUF file itself"
        )
    text = None if is_same(form.to_file(values), held) else as_text(held)
    return _Piece(name, replace(tensor, type=F32, data=values.view(np.uint8)), kept=text)


def _finite(tensor: StoredTensor, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = dequantise(tensor.type, np.ascontiguousarray(rows).reshape(-1))
    if not np.isfinite(values).all():
        raise FormatError(
            f"{tensor.source}: tensor {tensor.name!r} holds infinite values or such as are no numbers: the file is damaged; "
            "copy or download it again"
        )
    return values


def _chunks(piece: _Piece, kind: TensorType) -> Iterator[bytes]:
    if piece.tensor.type == kind:  # bytes as they are
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
