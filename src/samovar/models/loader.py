"""A checkpoint of either format to a decoder that computes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats import Checkpoint
from samovar.formats.cache import CacheStore
from samovar.formats.end_ids import end_ids
from samovar.formats.gguf import GgufCheckpoint
from samovar.kernels import Ops, WeightForm
from samovar.kernels.dequantise import dequantise
from samovar.kernels.native import NativeOps
from samovar.models import ARCHITECTURES, Architecture
from samovar.models.blocks import Decoder, load_decoder
from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import (
    PREDICTING_LAYERS,
    config_from_gguf,
    folder_shape,
    gguf_architecture,
    gguf_tensor_name,
    model_type_of,
)
from samovar.models.outputs import folder_outputs, gguf_outputs
from samovar.models.packing import BackgroundPacker, EagerPacker, Packer, Progress
from samovar.models.weights import WeightSource
from samovar.tensors.stored import Tensor

INTERLEAVED = frozenset({"llama", "mistral"})  # architectures whose GGUF files hold q and k rows for interleaved rotation
ROPE_FACTORS = "rope_freqs.weight"
# LongRoPE's: their keys in a config.json, and their tensors in GGUF files
LONG_ROPE_FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
_PREDICTING = {"qwen3_next": ("mtp.",)}  # what predicts several tokens at once, which `transformers` leaves out too
_CLASS = re.compile(f"(?P<stem>{'|'.join({known.stem for known in ARCHITECTURES.values()})})(Text)?(Model|For[A-Za-z]+)")
_RECOMPUTED = ".rotary_emb.inv_freq"  # old Llama folders store what their config already says


def read_config(checkpoint: Checkpoint) -> DecoderConfig:
    """The model's sizes and switches, without touching its tensors' data."""
    return _read(checkpoint)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model, and where its weights come from. `packer` is None where they were packed at once (NumPy kernels)."""

    decoder: Decoder
    packer: BackgroundPacker | None
    is_from_cache: bool


def load_model(
    checkpoint: Checkpoint,
    ops: Ops,
    cache: CacheStore | None = None,
    progress: Progress | None = None,
    form: WeightForm = "stored",
) -> LoadedModel:
    """Check the config and take every tensor. On native kernels weights get ready in the background.

    `form` is what linear layers compute in, but for the output head. Computing waits for what it needs.
    `progress(done_bytes, total_bytes, tensor)` is called as weights get ready, from another thread. Raises UnsupportedModel for
    an architecture or feature that is not implemented, FormatError where config and tensors do not fit each other.
    """
    if not isinstance(ops, NativeOps):
        return LoadedModel(decoder=take_weights(checkpoint, ops, EagerPacker(ops), form), packer=None, is_from_cache=False)
    packer = BackgroundPacker(ops)
    decoder = take_weights(checkpoint, ops, packer, form)
    name = str(checkpoint.path.absolute())
    is_from_cache = packer.start(cache, lambda: checkpoint.identity, name, progress)
    return LoadedModel(decoder=replace(decoder, wait=packer.wait), packer=packer, is_from_cache=is_from_cache)


def take_weights(checkpoint: Checkpoint, ops: Ops, packer: Packer, form: WeightForm) -> Decoder:
    """Check the config, and hand the tensors of linear layers to `packer`: the model whose weights are what that makes of them.

    Raises as `load_model`.
    """
    architecture, config, source = open_source(checkpoint, ops, packer, form)
    return load_decoder(config, source, ops, architecture.load_layer)


def open_source(
    checkpoint: Checkpoint, ops: Ops, packer: Packer | None, form: WeightForm = "stored"
) -> tuple[Architecture, DecoderConfig, WeightSource]:
    """The architecture and config of a checkpoint, and its tensors, ready to be taken. Raises as `load_model`."""
    architecture, config, where = _read(checkpoint)
    if not isinstance(checkpoint, GgufCheckpoint):
        of_folder = {
            name: tensor
            for name, tensor in checkpoint.tensors.items()
            if not is_recomputed(name) and not is_predicting(name, config.architecture)
        }
        source = WeightSource(
            of_folder, ops, where=where, file_name=_without_prefix if config.outputs.is_bare else str, packer=packer, form=form,
            has_centred_norms=config.has_centred_norms,
        )  # fmt: skip
        return architecture, config, source
    tensors = dict(checkpoint.tensors)
    if config.delta_net is not None:
        tensors = {name: replace(t, shape=folder_shape(name, t.shape)) for name, t in tensors.items()}
        n_predicting = checkpoint.facts.get(f"{gguf_architecture(config.architecture)}.{PREDICTING_LAYERS}", 0)
        assert isinstance(n_predicting, int)
        for index in range(config.n_layers, config.n_layers + n_predicting):
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"blk.{index}.")}
    config = with_rope_factors(config, tensors.pop(ROPE_FACTORS, None))
    for name in LONG_ROPE_FACTORS.values():
        tensors.pop(name, None)
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads} if config.architecture in INTERLEAVED else {}
    source = WeightSource(
        tensors, ops, where=where, file_name=partial(gguf_tensor_name, model_type=config.architecture),
        interleaved_heads=heads, packer=packer, form=form, stacks_experts=True,
    )  # fmt: skip
    return architecture, config, source


def is_recomputed(name: str) -> bool:
    """Whether a folder's tensor of this name says nothing that its config does not."""
    return name.endswith(_RECOMPUTED)


def is_predicting(name: str, architecture: str) -> bool:
    """Whether a folder's tensor of this name belongs to heads that predict several tokens at once, which are left out."""
    return name.startswith(_PREDICTING.get(architecture, ()))


def _read(checkpoint: Checkpoint) -> tuple[Architecture, DecoderConfig, str]:
    """The table's entry, the config, and the file to name in messages."""
    architecture, raw, where = _find_architecture(checkpoint)
    config = architecture.read_config(raw, where)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    if isinstance(checkpoint, GgufCheckpoint):
        prefix, facts = checkpoint.facts.get("general.architecture"), checkpoint.facts
        pooling, labels = facts.get(f"{prefix}.pooling_type"), facts.get(f"{prefix}.classifier.output_labels")
        outputs = gguf_outputs(pooling, labels, shapes, where)
    else:
        is_embedder = checkpoint.vectors is not None and checkpoint.vectors.pooling is not None
        outputs = folder_outputs(raw, shapes, where, is_embedder=is_embedder)
        end_ids(raw, where, config.vocab_size)
        end_ids(checkpoint.generation_config, str(checkpoint.path / "generation_config.json"), config.vocab_size)
    return architecture, replace(config, outputs=outputs), where


def _without_prefix(name: str) -> str:
    """The name of a tensor in a folder that was saved without an output head."""
    return name.removeprefix("model.")


def _find_architecture(checkpoint: Checkpoint) -> tuple[Architecture, dict[str, object], str]:
    """The table's entry, the raw config in Hugging Face keys, and the file to name in messages."""
    name: object
    if isinstance(checkpoint, GgufCheckpoint):
        where, name = str(checkpoint.path), model_type_of(checkpoint.facts.get("general.architecture"))
    else:
        where, name = str(checkpoint.path / "config.json"), checkpoint.config.get("model_type")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{where}: architecture {name!r} is not implemented; this version runs {', '.join(sorted(ARCHITECTURES))}"
        )
    if not isinstance(checkpoint, GgufCheckpoint):
        _check_classes(checkpoint.config, name, where)
        return ARCHITECTURES[name], dict(checkpoint.config), where
    raw = raw_config(checkpoint)
    return ARCHITECTURES[str(raw["model_type"])], raw, where


def _check_classes(config: Mapping[str, object], model_type: str, where: str) -> None:
    """Refuse a config whose `architectures` are of another `model_type`. Names that nobody knows say nothing."""
    names = config.get("architectures")
    known = [found for name in names if (found := _CLASS.fullmatch(str(name)))] if isinstance(names, list) else []
    if known and all(found["stem"] != ARCHITECTURES[model_type].stem for found in known):
        raise FormatError(
            f"{where}: architectures has {known[0][0]}, and model_type is {model_type!r}, which is another architecture; "
            "take the config.json that the weights came with"
        )


def raw_config(checkpoint: GgufCheckpoint) -> dict[str, object]:
    """What a GGUF file says, in Hugging Face keys. Raises FormatError or UnsupportedModel."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    raw = config_from_gguf(checkpoint.facts, shapes, str(checkpoint.path))
    return raw | long_rope_factors(checkpoint.tensors)


def long_rope_factors(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """LongRoPE's factors in Hugging Face keys, from the tensors of a GGUF file; empty where there are none."""
    return {
        key: dequantise(tensor.type, tensor.stored().data).tolist()
        for key, name in LONG_ROPE_FACTORS.items()
        if (tensor := tensors.get(name)) is not None
    }


def with_rope_factors(config: DecoderConfig, factors: Tensor | None) -> DecoderConfig:
    """Llama 3's scaling comes in GGUF as one divisor per rotated pair."""
    if factors is None:
        return config
    expected = config.rope.inv_freq_R.shape
    if factors.shape != expected:
        raise FormatError(
            f"{factors.source}: tensor {factors.name!r} has shape {list(factors.shape)}; "
            f"the head width asks for {list(expected)}"
        )
    return replace(config, rope=config.rope.divided_by(dequantise(factors.type, factors.stored().data)), long_context=None)
