"""Rotary position embedding: the frequencies of each published variant, and the tables of a step.

R is the number of rotated pairs, T the number of tokens. Variants: plain (Su et al., 2021, arXiv 2104.09864), linear
interpolation (Chen et al., 2023, arXiv 2306.15595), Llama 3's wavelength bands (Meta's reference code), YaRN (Peng et al.,
2023, arXiv 2309.00071). Frequencies and angles are float32, as in the code the models were trained with.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, UnsupportedModel

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Frequencies `inv_freq_R` in radians per token, and the factor that YaRN puts on the cosines and sines.

    `theta` is the base of a plain rotation; None where it is scaled.
    """

    inv_freq_R: F32
    attention_factor: float = 1.0
    theta: float | None = None

    def tables(self, positions_T: NDArray[np.int64]) -> tuple[F32, F32]:
        """Cosines and sines, each float32 [T, R]."""
        angles_TR = positions_T.astype(np.float32)[:, None] * self.inv_freq_R
        cos_TR, sin_TR = np.cos(angles_TR), np.sin(angles_TR)
        if self.attention_factor != 1.0:
            factor = np.float32(self.attention_factor)
            cos_TR, sin_TR = cos_TR * factor, sin_TR * factor
        return cos_TR, sin_TR

    def divided_by(self, factors_R: F32) -> "Rope":
        """The same with each frequency divided: GGUF files carry Llama 3's scaling as such a tensor."""
        return Rope(inv_freq_R=(self.inv_freq_R / factors_R).astype(np.float32), attention_factor=self.attention_factor)


def read_rope(parameters: Mapping[str, object], *, d_rotary: int, max_context: int, where: str) -> Rope:
    """Build the frequencies from a config's RoPE parameters (`rope_theta`, `rope_type` and what that type needs).

    Every parameter is honoured or refused by name. Raises UnsupportedModel for another type, FormatError for a value
    that is missing or out of range. `where` names the file.
    """
    rest = dict(parameters)
    kind = rest.pop("rope_type", None) or rest.pop("type", None) or "default"
    if "type" in rest and rest.pop("type") != kind:
        raise FormatError(f"{where}: rope has both type {parameters['type']!r} and rope_type {kind!r}; they must agree")
    theta = _number(rest, "rope_theta", where)
    exponents = np.arange(0, d_rotary, 2, dtype=np.float64) / d_rotary
    plain_R = (1.0 / theta**exponents).astype(np.float32)
    match kind:
        case "default":
            rope = Rope(inv_freq_R=plain_R, theta=theta)
        case "linear":
            rope = Rope(inv_freq_R=(plain_R / np.float32(_number(rest, "factor", where))).astype(np.float32))
        case "llama3":
            rope = Rope(inv_freq_R=_llama3(plain_R, rest, where))
        case "yarn":
            rope = _yarn(plain_R, theta, rest, max_context, where)
        case _:
            raise UnsupportedModel(
                f"{where}: rope type {kind!r} is not implemented; this version knows default, linear, llama3 and yarn"
            )
    if rest:
        raise UnsupportedModel(f"{where}: rope parameters that rope type {kind!r} does not read: {sorted(rest)}")
    return rope


def rotated_width(part: object, d_head: int, where: str) -> int:
    """How many values of a head are rotated, given a config's `partial_rotary_factor`. Raises as `read_rope`."""
    if isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
        raise FormatError(f"{where}: partial_rotary_factor is {part!r}; expected a number up to 1")
    d_rotary = int(d_head * part)
    if d_rotary % 2 or not d_rotary:
        raise UnsupportedModel(f"{where}: {d_rotary} of {d_head} values of a head are rotated; expected an even number")
    return d_rotary


def read_longrope(
    parameters: Mapping[str, object], *, d_rotary: int, max_context: int, original: int, where: str
) -> tuple[Rope, Rope]:
    """LongRoPE (Ding et al., 2024, arXiv 2402.13753): the rotations of texts of up to `original` tokens, and of longer ones.

    Each divides every frequency by a factor of its own. Cosines and sines of both are multiplied by `attention_factor`, which
    unless given is sqrt(1 + ln(max_context / original) / ln(original)). Raises as `read_rope`.
    """
    rest = {key: value for key, value in parameters.items() if key not in ("rope_type", "type")}
    theta, n_pairs = _number(rest, "rope_theta", where), d_rotary // 2
    stretch = _number(rest, "factor", where, default=max_context / original)
    scale = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 and original > 1 else 1.0
    scale = _number(rest, "attention_factor", where, default=scale)
    powers_R = np.float32(theta) ** (np.arange(0, d_rotary, 2, dtype=np.float32) / np.float32(d_rotary))
    ropes = []
    for key in ("short_factor", "long_factor"):
        factors = rest.pop(key, None)
        if not isinstance(factors, list) or len(factors) != n_pairs:
            raise FormatError(f"{where}: rope {key} is {str(factors)[:80]}; expected a list of {n_pairs} numbers")
        factors_R = np.array([_as_positive(key, factor, where) for factor in factors], np.float32)
        ropes.append(Rope(inv_freq_R=(1 / (factors_R * powers_R)).astype(np.float32), attention_factor=scale))
    if rest:
        raise UnsupportedModel(f"{where}: rope parameters that rope type 'longrope' does not read: {sorted(rest)}")
    return ropes[0], ropes[1]


def _llama3(plain_R: F32, rest: dict[str, object], where: str) -> F32:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor = _number(rest, "factor", where)
    low, high = _number(rest, "low_freq_factor", where), _number(rest, "high_freq_factor", where)
    original = _number(rest, "original_max_position_embeddings", where)
    if high <= low:
        raise FormatError(f"{where}: rope high_freq_factor is {high}; expected more than low_freq_factor, {low}")
    wavelength_R = 2 * math.pi / plain_R
    blend_R = np.clip((original / wavelength_R - low) / (high - low), 0, 1)
    scaled_R: F32 = ((1 - blend_R) * plain_R / factor + blend_R * plain_R).astype(np.float32)
    return scaled_R


def _yarn(plain_R: F32, theta: float, rest: dict[str, object], max_context: int, where: str) -> Rope:
    """Interpolate slow dimensions, keep fast ones, ramp between `beta_fast` and `beta_slow` rotations (section 3.2)."""
    original = _number(rest, "original_max_position_embeddings", where, default=float(max_context))
    factor = _number(rest, "factor", where, default=max_context / original)
    beta_fast = _number(rest, "beta_fast", where, default=32.0)
    beta_slow = _number(rest, "beta_slow", where, default=1.0)
    truncate = rest.pop("truncate", True)
    d_rotary = 2 * len(plain_R)

    def dimension(n_rotations: float) -> float:
        return d_rotary * math.log(original / (n_rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d_rotary - 1)
    ramp_R = np.clip((np.arange(len(plain_R)) - low) / max(high - low, 0.001), 0, 1)
    inv_freq_R = (plain_R / factor * ramp_R + plain_R * (1 - ramp_R)).astype(np.float32)
    return Rope(inv_freq_R=inv_freq_R, attention_factor=_yarn_attention_factor(rest, factor, where))


def _yarn_attention_factor(rest: dict[str, object], factor: float, where: str) -> float:
    """The factor on cosines and sines: given, or 0.1 ln(factor) + 1 (section 3.4), or a ratio of two such terms."""
    given = rest.pop("attention_factor", None)
    mscale, mscale_all = rest.pop("mscale", None), rest.pop("mscale_all_dim", None)

    def term(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given is not None:
        return _as_positive("attention_factor", given, where)
    if mscale and mscale_all:
        return term(_as_positive("mscale", mscale, where)) / term(_as_positive("mscale_all_dim", mscale_all, where))
    return term(1.0)


def _number(rest: dict[str, object], key: str, where: str, default: float | None = None) -> float:
    """Take a positive number out of the parameters."""
    value = rest.pop(key, None)
    if value is None and default is not None:
        return default
    return _as_positive(key, value, where)


def _as_positive(key: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise FormatError(f"{where}: rope {key} is {value!r}; expected a positive number")
    return float(value)
