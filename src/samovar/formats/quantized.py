"""The quantised weights of a Hugging Face folder as plain named tensors: AWQ, GPTQ, FP8 and compressed-tensors.

What a config says of its quantisation is read here and nowhere else; a model that loads the tensors need not know of it.
Modules that are not quantised (the output head, norms, the routers of experts) hold float weights, and pass as they are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.awq import read_awq
from samovar.formats.compressed_tensors import read_compressed_tensors
from samovar.formats.fp8 import read_fp8
from samovar.formats.gptq import read_gptq
from samovar.formats.grouped import GroupedWeight, assembled
from samovar.formats.quantisation_keys import Keys, Parts
from samovar.tensors.dtypes import F32, PART_TYPES
from samovar.tensors.stored import StoredTensor, Tensor

_READERS: Final[dict[str, Callable[[Keys, Parts], tuple[list[GroupedWeight], str]]]] = {
    "awq": read_awq,
    "compressed-tensors": read_compressed_tensors,
    "fp8": read_fp8,
    "gptq": read_gptq,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """What a folder's config says: `method` in words, `config` as canonical JSON, and what a user should know of it."""

    method: str
    config: str
    warnings: tuple[str, ...]


def read_quantised(
    raw: dict[str, object], tensors: Mapping[str, StoredTensor], where: str
) -> tuple[dict[str, Tensor], Quantisation]:
    """All tensors, the quantised weights among them under their plain names. `raw` is the object that `where` names.

    Raises UnsupportedModel for methods and settings that are not read, FormatError for tensors that do not fit the config. What
    the parts hold is checked when a weight is made of them.
    """
    method = raw.get("quant_method")
    reader = _READERS.get(method.lower()) if isinstance(method, str) else None
    if reader is None:
        said = f"the weights are quantised by method {str(method)[:40]!r}, which is not read"
        said = "quant_method is missing" if method is None else said
        raise UnsupportedModel(
            f"{where}: {said}; readable: {', '.join(_READERS)}: use the model's unquantised folder or a GGUF file"
        )
    parts = Parts(dict(tensors), where)
    weights, words = reader(Keys(raw, where), parts)
    if not weights:
        raise FormatError(f"{where}: no tensor is quantised as this says; config and weights do not belong together")
    made = {weight.name: assembled(weight) for weight in weights}
    for name, tensor in parts.rest.items():
        if name in made:
            raise FormatError(f"{tensor.source}: tensor {name!r} is there twice, once quantised and once not")
        if tensor.type in PART_TYPES:
            raise FormatError(
                f"{tensor.source}: tensor {name!r} of type {tensor.type.name} belongs to no quantised weight "
                f"that {where} tells of"
            )
    found: dict[str, Tensor] = {**parts.rest, **made}
    config = json.dumps(raw, sort_keys=True)
    return found, Quantisation(method=words, config=config, warnings=_warnings(weights))


def _warnings(weights: list[GroupedWeight]) -> tuple[str, ...]:
    """Which weights take more memory than their format."""
    lines = []
    if wide := [weight.name for weight in weights if weight.type is F32]:
        lines.append(
            f"{len(wide)} of {len(weights)} quantised weights are computed on in float32, which takes 4 to 8 times their "
            f"memory: their rows or groups are no multiple of 32 values ({wide[0]!r} is the first)"
        )
    if narrow := [weight.bits for weight in weights if weight.type is not F32 and weight.bits < 4]:
        lines.append(f"{len(narrow)} quantised weights of {narrow[0]} bits take 4 bits in memory; their values are the same")
    return tuple(lines)
