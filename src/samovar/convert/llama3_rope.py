"""Llama 3's scaling of rotation as settings, from the divisors that a GGUF file holds in their place.

R is the number of rotated pairs. Wavelengths are stretched by `factor` where they are long, kept where they are short, and
blended between (Meta's reference code): 1/divisor = blend + (1 - blend) / factor, with blend = (original / wavelength - low) /
(high - low). Only two numbers of the three in the blend can be told from it, so `high_freq_factor` is taken to be 4, as in all
releases; with fewer than two blended pairs `low_freq_factor` is taken to be 1, as in all releases.
"""

import math

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
_HIGH, _LOW, _ORIGINAL = 4.0, 1.0, 8192


def llama3_settings(plain_R: F32, divisors_R: F32) -> dict[str, object]:
    """The keys of a config.json, given the frequencies in radians per token before the division, and what divides them.

    Whoever takes them holds what they make against the divisors: others than Llama 3's give settings that do not fit.
    """
    factor = float(divisors_R.max())
    low, original = _LOW, float(_ORIGINAL)
    is_blended_R = (divisors_R > 1.0001) & (divisors_R < factor * 0.9999)
    inverse_R = (plain_R.astype(np.float64) / (2 * math.pi))[is_blended_R]  # of the wavelengths
    blend_R = ((1 / divisors_R.astype(np.float64) - 1 / factor) / (1 - 1 / factor))[is_blended_R] if factor > 1 else inverse_R
    if len(blend_R) > 1:  # a line through the pairs: slope original / (high - low), and - low / (high - low)
        slope, offset = np.polyfit(inverse_R, blend_R, 1)
        low = _HIGH * -offset / (1 - offset)
        original = slope * (_HIGH - low)
    elif len(blend_R):
        original = float((blend_R[0] * (_HIGH - low) + low) / inverse_R[0])
    return {
        "rope_type": "llama3",
        "factor": round(factor, 4),
        "low_freq_factor": max(0.001, round(float(low), 3)),
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": max(1, round(original)),
    }
