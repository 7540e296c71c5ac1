"""Sliding windows: in which layers a token attends to the last so many positions alone, as each architecture's config says it.

A window counts the token itself, as the masks of `transformers` do. One that holds the whole context changes
nothing.
"""

from collections.abc import Sequence
from typing import Literal

from samovar.errors import FormatError, UnsupportedModel
from samovar.models.config_reader import ConfigReader

Sliding = Literal["never", "everywhere", "above_a_layer", "by_pattern"]
"""Which layers slide where a config names no layers: none; all (Mistral, Phi-3); those from `max_window_layers` on where
`use_sliding_window` says so (Qwen); all but every `sliding_window_pattern`th (Gemma 3)."""

_MAX_WINDOW_LAYERS, _PATTERN = 28, 6  # defaults of the published classes
_KINDS = ("full_attention", "sliding_attention")


def read_windows(reader: ConfigReader, n_layers: int, max_context: int, sliding: Sliding) -> tuple[int | None, ...]:
    """The window of each layer, None for one that sees all; () where all layers do.

    Takes every key that is about windows. Raises FormatError for values that make no sense, UnsupportedModel for layers of
    other kinds, and for windows that the architecture does not have.
    """
    where = reader.where
    is_used, window = reader.take("use_sliding_window"), reader.take("sliding_window")
    boundary = _count(reader, "max_window_layers", _MAX_WINDOW_LAYERS)
    patterns = [_count(reader, key, _PATTERN) for key in ("sliding_window_pattern", "_sliding_window_pattern")]
    named = _named_layers(reader, n_layers)
    if is_used is not None and not isinstance(is_used, bool):
        raise FormatError(f"{where}: use_sliding_window is {is_used!r}; expected true or false")
    if isinstance(window, bool) or not isinstance(window, int | None) or (window is not None and window < 0):
        raise FormatError(f"{where}: sliding_window is {window!r}; expected a whole number of tokens, or null")
    is_off = is_used is False or (is_used is None and sliding == "above_a_layer")
    pattern = next((given for given in patterns if given != _PATTERN), _PATTERN)
    slides = _chosen(sliding, n_layers, boundary, pattern) if named is None else named
    if not window or is_off:
        if any(slides) and (named is not None or sliding == "by_pattern"):
            raise FormatError(f"{where}: there are layers of sliding_attention, and no sliding_window is in use; expected one")
        return ()
    if sliding == "never" and window >= max_context:
        return ()
    if sliding == "never":
        raise UnsupportedModel(f"{where}: sliding_window {window} is not implemented for this architecture; expected none")
    if sliding == "everywhere" and not all(slides):
        raise UnsupportedModel(f"{where}: layer_types names layers of full_attention; expected sliding_attention in all layers")
    return tuple(window if is_sliding else None for is_sliding in slides) if any(slides) else ()


def _chosen(sliding: Sliding, n_layers: int, boundary: int, pattern: int) -> Sequence[bool]:
    """Whether each layer slides."""
    if sliding == "above_a_layer":
        return [index >= boundary for index in range(n_layers)]
    if sliding == "by_pattern":
        return [pattern > 0 and (index + 1) % pattern != 0 for index in range(n_layers)]
    return [True] * n_layers


def _named_layers(reader: ConfigReader, n_layers: int) -> list[bool] | None:
    """Whether each layer slides, by `layer_types`; None where the config does not say."""
    layer_types = reader.take("layer_types")
    if layer_types is None:
        return None
    if not isinstance(layer_types, list) or len(layer_types) != n_layers:
        raise FormatError(f"{reader.where}: layer_types is {layer_types!r}; expected an entry for each of {n_layers} layers")
    if others := sorted({str(kind) for kind in layer_types} - set(_KINDS)):
        raise UnsupportedModel(f"{reader.where}: layer_types {others} are not implemented; expected {' or '.join(_KINDS)}")
    return [kind == "sliding_attention" for kind in layer_types]


def _count(reader: ConfigReader, key: str, default: int) -> int:
    """A whole number from 0 on."""
    value = reader.take(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError(f"{reader.where}: {key} is {value!r}; expected a whole number from 0 on")
    return value
