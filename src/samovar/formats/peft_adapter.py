"""A LoRA adapter as PEFT saves it: a folder with adapter_config.json and adapter_model.safetensors.

Every key of the config is read, known to be without effect on inference, or refused by name. Which layers are adapted, their
ranks and their scales follow from the config as PEFT 0.21 has it (`peft.tuners.lora.model`, `peft.tuners.tuners_utils`); the
tensors have to agree. Source of the method: Hu et al., 2021, arXiv 2106.09685.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from samovar.errors import FormatError, ModelNotFound, UnsupportedModel
from samovar.formats.adapter_config import AdapterConfig, layer_number, read_adapter_config
from samovar.formats.mapped_file import unreadable
from samovar.formats.safetensors import read_safetensors
from samovar.kernels.dequantise import dequantise
from samovar.tensors.stored import StoredTensor

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PICKLE: Final = "adapter_model.bin"
_PREFIX: Final = "base_model.model."
_UNADAPTED: Final = ("model.embed_tokens", "lm_head")
_OF_EXPERTS: Final = ("gate_proj", "up_proj", "down_proj", "gate", "gate_up_proj", "experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankPair:
    """What is added to a layer's weight: scale * B A, with A [R, n_in] and B [n_out, R] as they lie on disk."""

    a: StoredTensor
    b: StoredTensor
    scale: float


def read_peft_adapter(path: Path, layers: Mapping[str, tuple[int, int]]) -> dict[str, LowRankPair]:
    """The pairs by the name of the layer that they adapt.

    `layers` are the model's linear layers, but for the output head, by their Hugging Face names without `.weight`: (n_out,
    n_in). Raises ModelNotFound for absent files, UnsupportedModel for what is not implemented, FormatError for damage and for
    what does not fit this model.
    """
    _check_files(path)
    config = read_adapter_config(path / CONFIG)
    targets = _targets(config, layers)
    rest = read_safetensors(path / WEIGHTS)
    pairs = {name: _take_pair(rest, path / WEIGHTS, config, name, *layers[name]) for name in targets}
    if rest:
        raise _refusal_of_rest(path / WEIGHTS, sorted(rest))
    return pairs


def _check_files(path: Path) -> None:
    """Raise where the folder is none of an adapter, or holds pickle only."""
    if "\0" in str(path):
        raise ModelNotFound(f"{str(path)!r}: no path, it holds a zero byte")
    try:
        has_config, has_weights, has_pickle = ((path / name).exists() for name in (CONFIG, WEIGHTS, _PICKLE))
    except OSError as error:
        raise unreadable(path, error) from None
    if not has_config:
        raise ModelNotFound(f"{path}: no adapter: {CONFIG} and {WEIGHTS}, as PEFT saves them, are expected in this folder")
    if has_pickle and not has_weights:
        raise UnsupportedModel(
            f"{path / _PICKLE}: pickle is not read, since loading it can run any code that is hidden in it: "
            "save the adapter as safetensors"
        )


def _targets(config: AdapterConfig, layers: Mapping[str, tuple[int, int]]) -> list[str]:
    """The names of the layers that the config adapts. Each target that it lists has to be there."""
    if found := [name for name in _UNADAPTED if config.adapts(name)]:
        raise UnsupportedModel(
            f"{config.where}: target_modules reach {found[0]!r}; "
            "adapters for the embedding and the output head are not implemented"
        )
    if isinstance(config.targets, frozenset):
        for target in sorted(config.targets):
            if not any(name == target or name.endswith(f".{target}") for name in layers):
                kinds = sorted({name.rpartition(".")[2] for name in layers})
                if target.rpartition(".")[2] in _OF_EXPERTS and not set(_OF_EXPERTS) & set(kinds):
                    raise UnsupportedModel(
                        f"{config.where}: target_modules holds {target!r}, which only experts or routers of this model have; "
                        f"adapters for those are not implemented, only for {', '.join(kinds)}"
                    )
                raise FormatError(
                    f"{config.where}: target_modules holds {target!r}, which is no linear layer of this model; "
                    f"it has {', '.join(kinds)}"
                )
    n_layers = 1 + max(layer_number(name) for name in layers)
    if absent := sorted(number for number in config.layers or () if number >= n_layers):
        raise FormatError(
            f"{config.where}: layers_to_transform holds {absent[:5]}; the layers of this model are 0 to {n_layers - 1}"
        )
    targets = [name for name in layers if config.adapts(name)]
    if not targets:
        raise FormatError(f"{config.where}: target_modules reach no layer of this model; the adapter is for another one")
    return targets


def _take_pair(
    rest: dict[str, StoredTensor], where: Path, config: AdapterConfig, name: str, n_out: int, n_in: int
) -> LowRankPair:
    """Take A and B of a layer out of `rest`; their shapes and values are checked."""
    rank, alpha = config.rank(name), config.alpha(name)
    a = _take(rest, where, f"{_PREFIX}{name}.lora_A.weight", (rank, n_in))
    b = _take(rest, where, f"{_PREFIX}{name}.lora_B.weight", (n_out, rank))
    return LowRankPair(a=a, b=b, scale=alpha / math.sqrt(rank) if config.is_rank_stabilised else alpha / rank)


def _take(rest: dict[str, StoredTensor], where: Path, name: str, shape: tuple[int, int]) -> StoredTensor:
    tensor = rest.pop(name, None)
    if tensor is None:
        others = f"the file has {len(rest)} other tensors" + (f", {min(rest)!r} among them" if rest else "")
        raise FormatError(f"{where}: tensor {name!r} is missing; expected one of shape {list(shape)}; {others}")
    if tensor.shape != shape:
        raise FormatError(
            f"{where}: tensor {name!r} has shape {list(tensor.shape)}; {CONFIG} and the model ask for {list(shape)}"
        )
    if not np.isfinite(dequantise(tensor.type, tensor.data)).all():
        raise FormatError(f"{where}: tensor {name!r} holds a value that is infinite or no number; train or copy it again")
    return tensor


def _refusal_of_rest(where: Path, names: list[str]) -> FormatError | UnsupportedModel:
    """The error for tensors that nothing takes."""
    for name in names:
        if ".mlp.experts." in name or ".mlp.gate." in name:
            return UnsupportedModel(f"{where}: holds tensor {name!r}; adapters for experts and routers are not implemented")
        if "embed_tokens" in name or "lm_head" in name:
            return UnsupportedModel(
                f"{where}: holds tensor {name!r}; adapters for the embedding and the output head are not implemented"
            )
    shown = ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return FormatError(
        f"{where}: {len(names)} tensors that {CONFIG} and this model have no place for: {shown}; expected are "
        f"lora_A.weight and lora_B.weight of the layers that target_modules reach"
    )
