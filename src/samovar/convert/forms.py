"""Vectors that GGUF holds in another form than a folder: 1 more than the weights of centred norms, and rates for A_log.

Either form is rounded to float32, so that some values do not come back from the other one. These are kept as text, in the
metadata of the GGUF file or of the safetensors, under keys that other programs pass over. They are taken back only where the
tensor beside them is what they make, to the bit.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from samovar.convert.delta_net import logarithms
from samovar.kernels import F32
from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import is_centred_norm
from samovar.models.qwen3_next import rates

KEPT_OF_FOLDER: Final = "samovar.folder."  # in a GGUF file, before a tensor's name in the file
KEPT_OF_FILE: Final = "samovar.gguf."  # in safetensors, likewise
_ONE: Final = np.float32(1)


@dataclass(frozen=True, slots=True)
class Form:
    """What a file holds for the values of a folder, and the other way; the latter makes no number of what no folder can say."""

    to_file: Callable[[F32], F32]
    to_folder: Callable[[F32], F32]


CENTRED: Final = Form(to_file=lambda values: values + _ONE, to_folder=lambda values: values - _ONE)
RATES: Final = Form(to_file=lambda log_H: -rates(log_H), to_folder=lambda held_H: logarithms(-held_H))


def form_of(name: str, config: DecoderConfig) -> Form | None:
    """The form of a tensor, by its name in a folder; None where both hold the same."""
    if name.endswith(".A_log"):
        return RATES
    return CENTRED if config.has_centred_norms and is_centred_norm(name) else None


def is_same(first: F32, second: F32) -> bool:
    """Whether all bits are equal: -0 is not 0 here."""
    return bool(np.array_equal(first.view(np.uint32), second.view(np.uint32)))


def as_text(values: F32) -> str:
    """Values to be kept."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def kept(metadata: Mapping[str, object], prefix: str, name: str, change: Callable[[F32], F32], changed: F32) -> F32 | None:
    """The values that were kept of a tensor, where they still make those that lie there; else None."""
    text = metadata.get(prefix + name)
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        return None
    if len(raw) != changed.nbytes:
        return None
    values = np.frombuffer(raw, "<f4").astype(np.float32).reshape(changed.shape)
    return values if np.isfinite(values).all() and is_same(change(values), changed) else None
