"""Mistral, Mistral Nemo and Small: the layers of `llama`, all with a sliding window where the config has one.

Source: Mistral 7B (arXiv 2310.06825), section 2, and `transformers.models.mistral`.
"""

from samovar.models.config import DecoderConfig, read_decoder_config
from samovar.models.llama import load_layer as load_layer


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """A null `sliding_window` is none, as in all releases after the first."""
    return read_decoder_config(raw, where, sliding="everywhere")
