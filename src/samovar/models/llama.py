"""Llama 2 and 3, SmolLM2: plain layers; biases and RoPE variants as the config says."""

from samovar.models.blocks import PlainLayer
from samovar.models.config import DecoderConfig, read_decoder_config
from samovar.models.weights import WeightSource


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """The config's own `attention_bias` (default false) covers q, k, v and o alike."""
    return read_decoder_config(raw, where)


def load_layer(source: WeightSource, index: int, config: DecoderConfig) -> PlainLayer:
    """Take layer `index`."""
    return PlainLayer.load(source, index, config, has_output_bias=config.has_attention_bias)
