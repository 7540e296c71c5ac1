"""The model that is converted: its tensors under GGUF names, in GGUF's order of rows, in float32 a few rows at a time.

Shape letters: N rows, K values of a row, E experts.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samovar.convert.forms import KEPT_OF_FILE, KEPT_OF_FOLDER, Form, as_text, form_of, is_same, kept
from samovar.convert.text_scoring import TextScoring, classifier_rows, text_scoring
from samovar.errors import UnsupportedModel
from samovar.formats import Checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.safetensors import read_metadata
from samovar.kernels import F32, Ops
from samovar.kernels.dequantise import dequantise
from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import file_shape, gguf_architecture, gguf_tensor_name
from samovar.models.loader import INTERLEAVED, LONG_ROPE_FACTORS, is_predicting, is_recomputed
from samovar.models.qwen3_next import mixed_rows
from samovar.models.rope import read_rope
from samovar.models.tensor_check import check_tensors
from samovar.models.weights import half_split_order
from samovar.tensors import dtypes
from samovar.tensors.stored import StoredTensor, Tensor

_SLAB_VALUES: Final = 1 << 22
_EXPERTS: Final = ".mlp.experts."
_JOINED: Final = ".in_proj_qkvz.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """A tensor of the file to be written. `parts` are tensors of the source, or views of them, whose rows follow each other.

    `order` is that of its rows, where it is another one than the source's, or some of those.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]
    order: NDArray[np.int64] | None = None

    @property
    def n_elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    @property
    def type_name(self) -> str:
        """The type that its source is stored in."""
        return self.parts[0].type.name

    def blocks(self) -> Iterator[NDArray[np.uint8]] | None:
        """Its bytes as they are stored, where the order of values is the source's and all parts are of one type, else None."""
        first = self.parts[0]
        if self.order is not None:
            return None
        if any(part.type != first.type or part.has_input_order for part in self.parts):
            return None
        return _bytes_of(self.parts)

    def slabs(self, ops: Ops, n_values: int = _SLAB_VALUES) -> Iterator[F32]:
        """[M, K]: some rows after the other, of about `n_values` values; pages of the source are let go of behind them.

        Rows of different experts do not come in one slab.
        """
        for part in self.parts:
            stored = part.stored()
            for member in [stored] if len(stored.shape) < 3 else [stored.entry(e) for e in range(stored.shape[0])]:
                yield from self._rows(member, ops, n_values)
                stored.release()
                part.release()

    def _rows(self, stored: StoredTensor, ops: Ops, n_values: int) -> Iterator[F32]:
        width = stored.shape[-1]
        table = replace(stored, shape=(stored.n_elements // width, width))
        order = np.arange(table.shape[0]) if self.order is None else self.order
        if len(stored.shape) == 1 and self.order is not None:  # a bias whose values are reordered
            yield ops.embed(table, np.zeros(1, np.int64))[:, self.order]
            return
        step = max(1, n_values // width)
        for start in range(0, len(order), step):
            x_MK = ops.embed(table, order[start : start + step])
            if stored.input_order is not None:
                plain_MK = np.empty_like(x_MK)
                plain_MK[:, stored.input_order] = x_MK
                x_MK = plain_MK
            yield x_MK
            stored.release()


def _bytes_of(parts: tuple[Tensor, ...]) -> Iterator[NDArray[np.uint8]]:
    for part in parts:
        stored = part.stored()
        for start in range(0, stored.size_bytes, 4 * _SLAB_VALUES):
            yield stored.data[start : start + 4 * _SLAB_VALUES]
            stored.release()
        part.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A model to be written as GGUF: all tensors that the file has, in the order of the layers. `scoring` is what a folder says
    of vectors and scores; None for a GGUF file, whose keys are copied. `n_left_out` counts a folder's tensors that only predict
    several tokens at once. `kept` has keys for a file: values of the folder that do not come back from it."""

    config: DecoderConfig
    tensors: list[SourceTensor]
    scoring: TextScoring | None
    n_left_out: int = 0
    kept: dict[str, str] = field(default_factory=dict)


def read_source(checkpoint: Checkpoint) -> SourceModel:
    """What there is to write.

    Raises what loading the model raises: UnsupportedModel for an architecture that is not implemented, FormatError for tensors
    that are missing, left over, or of another shape than the config says.
    """
    config = check_tensors(checkpoint)
    if isinstance(checkpoint, GgufCheckpoint):
        copied = [SourceTensor(name=t.name, shape=t.shape, parts=(t,)) for t in checkpoint.tensors.values()]
        return SourceModel(config=config, tensors=copied, scoring=None)
    scoring = text_scoring(checkpoint, config)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not is_recomputed(name)}
    n_tensors = len(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if not is_predicting(name, config.architecture)}
    n_left_out = n_tensors - len(tensors)
    if config.outputs.is_bare:
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    if config.is_tied:
        tensors.pop("lm_head.weight", None)
    experts = {name: tensors.pop(name) for name in list(tensors) if _EXPERTS in name}
    of_file = {key: text for file in checkpoint.files for key, text in read_metadata(file).items()}
    of_folder: dict[str, str] = {}
    for name, tensor in tensors.items():
        if (form := form_of(name, config)) is not None:
            target = gguf_tensor_name(name, config.architecture)
            tensors[name] = _in_form(target, tensor.stored(), form, of_file, of_folder)
    found = [made for name, tensor in tensors.items() for made in _plain(name, tensor, config)]
    found += _stacks(experts, config)
    found += _rope_factors(checkpoint.config, config)
    if rows := classifier_rows(scoring, head):
        found.append(SourceTensor(name=gguf_tensor_name("score.weight"), shape=(len(rows), config.d_model), parts=rows))
    found.sort(key=lambda tensor: _place(tensor.name))
    return SourceModel(config=config, tensors=found, scoring=scoring, n_left_out=n_left_out, kept=of_folder)


def _in_form(
    name: str, tensor: StoredTensor, form: Form, of_file: Mapping[str, object], of_folder: dict[str, str]
) -> StoredTensor:
    """What the file holds for a vector: what a file had that the folder was made of, else what the folder's values make.

    Those values go to `of_folder` where they would not come back.
    """
    values = dequantise(tensor.type, tensor.data)
    made = kept(of_file, KEPT_OF_FILE, name, form.to_folder, values)
    if made is None:
        made = form.to_file(values)
    if (lost := np.flatnonzero(np.isfinite(values) & ~np.isfinite(made))).size:
        raise UnsupportedModel(
            f"{tensor.source}: tensor {tensor.name!r} holds {values[lost[0]]}, and GGUF its exponential, in float32, which "
            "is infinite here: values of at most 88.7 are expected; use the folder itself, which Samovar runs as it is"
        )
    if not is_same(form.to_folder(made), values):
        of_folder[KEPT_OF_FOLDER + name] = as_text(values)
    return replace(tensor, type=dtypes.F32, data=made.view(np.uint8))


def _plain(name: str, tensor: Tensor, config: DecoderConfig) -> list[SourceTensor]:
    """A tensor that is no expert's, or those that the file has in its place.

    The `llama` architecture has rows of q and k as pairs that are rotated together. For delta nets see `delta_net`.
    """
    if name.endswith(_JOINED) and config.delta_net is not None:
        named = {name.replace("qkvz", part): rows for part, rows in mixed_rows(config.delta_net).items()}
        return [
            SourceTensor(
                name=gguf_tensor_name(part, config.architecture), shape=(len(rows), config.d_model), parts=(tensor,), order=rows
            )
            for part, rows in named.items()
        ]
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}
    is_interleaved = gguf_architecture(config.architecture) in INTERLEAVED
    n_heads = next((n for part, n in heads.items() if part in name and is_interleaved), None)
    order = None if n_heads is None else np.argsort(half_split_order(tensor.shape[0], n_heads))
    target = gguf_tensor_name(name, config.architecture)
    tensor = replace(tensor, shape=file_shape(target, tensor.shape))
    return [SourceTensor(name=target, shape=tensor.shape, parts=(tensor,), order=order)]


def _stacks(experts: dict[str, Tensor], config: DecoderConfig) -> list[SourceTensor]:
    """The projections of all experts, each as one tensor."""
    found: list[SourceTensor] = []
    assert not experts or config.experts is not None
    for module in dict.fromkeys(name.partition(_EXPERTS)[0] + _EXPERTS.rstrip(".") for name in experts):
        parts = {part: _expert_parts(experts, module, part) for part in ("gate_proj", "up_proj", "down_proj")}
        for part, members in parts.items():
            shape = (sum(_n_experts(m) for m in members), *members[0].shape[-2:])
            found.append(SourceTensor(name=gguf_tensor_name(f"{module}.{part}.weight"), shape=shape, parts=members))
    return found


def _expert_parts(experts: dict[str, Tensor], module: str, part: str) -> tuple[Tensor, ...]:
    """In either layout, see `models.expert_weights`."""
    if (wide := experts.get(f"{module}.gate_up_proj")) is not None:
        if part == "down_proj":
            return (experts[f"{module}.down_proj"],)
        both = wide.stored()
        n_rows = both.shape[1] // 2
        start = 0 if part == "gate_proj" else n_rows
        return tuple(replace(both.entry(e).part(start, start + n_rows), release=both.release) for e in range(both.shape[0]))
    n_experts = sum(1 for name in experts if name.startswith(f"{module}.") and name.endswith(f".{part}.weight"))
    return tuple(experts[f"{module}.{e}.{part}.weight"] for e in range(n_experts))


def _n_experts(tensor: Tensor) -> int:
    return tensor.shape[0] if len(tensor.shape) == 3 else 1


def rope_keys(raw: dict[str, object]) -> dict[str, object]:
    """The RoPE parameters of a config.json, as transformers 4 or 5 writes them, the base among them where it is given.

    Of layers of two kinds they are those of the layers that see all positions.
    """
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(found := raw.get(key), dict):
            break
    else:
        found = {}
    if isinstance(of_kind := found.get("full_attention"), dict):
        found = of_kind
    return {"rope_theta": raw["rope_theta"], **found} if raw.get("rope_theta") is not None else dict(found)


def _rope_factors(raw: dict[str, object], config: DecoderConfig) -> list[SourceTensor]:
    """The scaling of Llama 3 and of LongRoPE, which GGUF has as tensors of divisors."""
    keys = rope_keys(raw)
    if keys.get("rope_type", keys.get("type")) == "llama3":
        plain = {"rope_theta": keys.get("rope_theta", 10_000.0)}
        plain_R = read_rope(plain, d_rotary=config.d_head, max_context=config.max_context, where="config.json").inv_freq_R
        return [_computed("rope_freqs.weight", plain_R / config.rope.inv_freq_R)]
    factors = ((name, keys.get(key)) for key, name in LONG_ROPE_FACTORS.items())
    return [_computed(name, found) for name, found in factors if isinstance(found, list)]


def _computed(name: str, values: ArrayLike) -> SourceTensor:
    """A vector that is no tensor of the source."""
    data = np.array(values, np.float32)
    stored = StoredTensor(name=name, type=dtypes.F32, shape=data.shape, data=data.view(np.uint8), source="config.json")
    return SourceTensor(name=name, shape=stored.shape, parts=(stored,))


def _place(name: str) -> tuple[int, int, str]:
    """Where a tensor stands in the file: embedding, layers in order, the rest."""
    if name.startswith("blk."):
        return 1, int(name.split(".")[1]), name
    return (0, 0, name) if name.startswith("token_embd") else (2, 0, name)
