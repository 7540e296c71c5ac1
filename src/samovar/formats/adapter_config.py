"""PEFT's adapter_config.json as one typed object: which layers a LoRA adapter reaches, with what rank and what scale."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.json_object import read_json_object
from samovar.formats.safe_pattern import SafePattern

MAX_RANK: Final = 4096
_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_PATTERN: Final = 2000  # characters
_MAX_PATTERNS: Final = 16  # of rank_pattern and alpha_pattern each, beside plain names
_ALL_LINEAR: Final = "all-linear"
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.")

_HARMLESS: Final = frozenset(
    {
        # bookkeeping
        "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type", "unsloth_fixed",
        # training only
        "lora_dropout", "eva_config", "corda_config", "loftq_config", "lora_ga_config",
        # read only together with a feature that is refused
        "megatron_core", "qalora_group_size",
    }
)  # fmt: skip
_MUST_BE_OFF: Final[dict[str, object]] = {
    "alora_invocation_tokens": None, "arrow_config": None, "bias": "none", "ensure_weight_tying": False,
    "fan_in_fan_out": False, "kasa_config": None, "layer_replication": None, "lora_bias": False, "megatron_config": None,
    "modules_to_save": None, "monteclora_config": None, "target_parameters": None, "trainable_token_indices": None,
    "use_bdlora": None, "use_dora": False, "use_qalora": False, "velora_config": None,
}  # fmt: skip
_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")  # others change the base model's weights as well


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What the config says of the layers, each asked for by its Hugging Face name. `where` names the file."""

    where: str
    targets: frozenset[str] | SafePattern | None
    """Names or ends of names, or a pattern; None for all linear layers but the output head."""
    excluded: frozenset[str] | SafePattern
    layers: frozenset[int] | None
    """Numbers of the decoder layers that are adapted; None for all."""
    is_rank_stabilised: bool
    default_rank: int
    default_alpha: float
    ranks: tuple[tuple[SafePattern, int], ...]
    alphas: tuple[tuple[SafePattern, float], ...]

    def adapts(self, name: str) -> bool:
        """Whether the layer of this name is adapted."""
        if _reaches(self.excluded, name):
            return False
        if self.targets is None:
            return layer_number(name) >= 0
        return _reaches(self.targets, name) and (self.layers is None or layer_number(name) in self.layers)

    def rank(self, name: str) -> int:
        """The rank of the layer of this name: that of the first pattern that matches it or its end."""
        return next((rank for pattern, rank in self.ranks if pattern.matches(name, _ends(name))), self.default_rank)

    def alpha(self, name: str) -> float:
        """As `rank`, what the scale is made of."""
        return next((alpha for pattern, alpha in self.alphas if pattern.matches(name, _ends(name))), self.default_alpha)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read the file. Raises FormatError for impossible values, UnsupportedModel for features that are not implemented."""
    where = str(path)
    rest = read_json_object(path, _MAX_CONFIG_BYTES)
    if (kind := rest.pop("peft_type", None)) != "LORA":
        raise UnsupportedModel(f"{where}: peft_type is {_shown(kind)}; only 'LORA' is implemented")
    for key, off in _MUST_BE_OFF.items():
        value = rest.pop(key, off)
        if value != off and value not in (None, False, [], {}):
            raise UnsupportedModel(f"{where}: {key} is {_shown(value)}, which is not implemented; expected {off!r}")
    if (start := rest.pop("init_lora_weights", True)) not in _STARTS:
        raise UnsupportedModel(
            f"{where}: init_lora_weights is {_shown(start)}, which changes the base model too; save the adapter with "
            "path_initial_model_for_weight_conversion, so that it fits the model as it was published"
        )
    targets = _read_targets(rest.pop("target_modules", None), where)
    config = AdapterConfig(
        where=where,
        targets=targets,
        excluded=_read_names("exclude_modules", rest.pop("exclude_modules", None) or [], where),
        layers=_read_layers(rest, targets, where),
        is_rank_stabilised=_read_switch("use_rslora", rest.pop("use_rslora", False), where),
        default_rank=_read_rank("r", rest.pop("r", None), where),
        default_alpha=_read_alpha("lora_alpha", rest.pop("lora_alpha", None), where),
        ranks=tuple(
            (pattern, _read_rank(f"rank_pattern[{_shown(key)}]", value, where))
            for key, pattern, value in _read_patterns("rank_pattern", rest.pop("rank_pattern", None), where)
        ),
        alphas=tuple(
            (pattern, _read_alpha(f"alpha_pattern[{_shown(key)}]", value, where))
            for key, pattern, value in _read_patterns("alpha_pattern", rest.pop("alpha_pattern", None), where)
        ),
    )
    if unread := sorted(key for key, value in rest.items() if key not in _HARMLESS and value is not None):
        raise UnsupportedModel(f"{where}: keys that are not implemented for LoRA adapters: {_shown(unread)}")
    return config


def layer_number(name: str) -> int:
    """The number of the decoder layer that a linear layer of this name belongs to; -1 for the embedding and the head."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def _shown(value: object) -> str:
    """What stands in the file, at most a line or two of it."""
    return repr(value)[:200]


def _reaches(names: frozenset[str] | SafePattern, name: str) -> bool:
    """Whether one of `names` is this name, or its end after a dot; or whether a pattern matches all of it."""
    if isinstance(names, SafePattern):
        return names.matches(name)
    return any(name[start:] in names for start in _ends(name))


def _ends(name: str) -> frozenset[int]:
    """Where the parts of a dotted name begin."""
    return frozenset([0, *(i + 1 for i, character in enumerate(name) if character == ".")])


def _read_targets(value: object, where: str) -> frozenset[str] | SafePattern | None:
    if isinstance(value, str) and value.lower() == _ALL_LINEAR:
        return None
    if not value:
        raise FormatError(
            f"{where}: target_modules is {_shown(value)}; expected names of layers, a pattern, or {_ALL_LINEAR!r}"
        )
    return _read_names("target_modules", value, where)


def _read_names(key: str, value: object, where: str) -> frozenset[str] | SafePattern:
    """A list of names, or a pattern."""
    if isinstance(value, str):
        return _pattern(key, value, where)
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise FormatError(f"{where}: {key} is {_shown(value)}; expected a list of names, or a pattern")
    return frozenset(value)


def _read_layers(rest: dict[str, object], targets: object, where: str) -> frozenset[int] | None:
    """`layers_to_transform`, with the one `layers_pattern` that these models have."""
    value, pattern = rest.pop("layers_to_transform", None), rest.pop("layers_pattern", None)
    if pattern not in (None, [], "", "layers", ["layers"]):
        raise UnsupportedModel(f"{where}: layers_pattern is {_shown(pattern)}; the layers of this model are called 'layers'")
    if value is None or value == []:
        return None
    numbers = [value] if isinstance(value, int) else value
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        raise FormatError(f"{where}: layers_to_transform is {_shown(value)}; expected numbers of layers, from 0")
    if not isinstance(targets, frozenset):
        raise FormatError(f"{where}: layers_to_transform goes with a list of target_modules only, as in PEFT")
    return frozenset(numbers)


def _read_patterns(key: str, value: object, where: str) -> list[tuple[str, SafePattern, object]]:
    """The entries of `rank_pattern` or `alpha_pattern`, in their order."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise FormatError(f"{where}: {key} is {_shown(value)}; expected an object of names or patterns with their numbers")
    found = [(name, _pattern(key, name, where), number) for name, number in value.items()]
    if (n_costly := sum(not pattern.is_plain for _, pattern, _ in found)) > _MAX_PATTERNS:
        raise UnsupportedModel(f"{where}: {key} holds {n_costly} patterns; expected at most {_MAX_PATTERNS} beside plain names")
    return found


def _pattern(key: str, source: str, where: str) -> SafePattern:
    if len(source) > _MAX_PATTERN:
        raise FormatError(f"{where}: {key} holds a pattern of {len(source)} characters; expected at most {_MAX_PATTERN}")
    return SafePattern(source, f"{where}: {key}")


def _read_switch(key: str, value: object, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise FormatError(f"{where}: {key} is {_shown(value)}; expected true or false")
    return bool(value)


def _read_rank(key: str, value: object, where: str) -> int:
    if type(value) is not int or not 0 < value <= MAX_RANK:
        raise FormatError(f"{where}: {key} is {_shown(value)}; expected a whole number from 1 to {MAX_RANK}")
    return value


def _read_alpha(key: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise FormatError(f"{where}: {key} is {_shown(value)}; expected a number below 1e30")
    return float(value)
