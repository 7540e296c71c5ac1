"""Qwen2 and Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen: plain layers with biases on q, k and v, none on the output."""

from samovar.models.blocks import PlainLayer
from samovar.models.config import DecoderConfig, read_decoder_config
from samovar.models.weights import WeightSource


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """The biases are part of the architecture; no key names them."""
    return read_decoder_config(raw, where, attention_bias=True, sliding="above_a_layer")


def load_layer(source: WeightSource, index: int, config: DecoderConfig) -> PlainLayer:
    """Take layer `index`."""
    return PlainLayer.load(source, index, config, has_output_bias=False)
