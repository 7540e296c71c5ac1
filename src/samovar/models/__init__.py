"""Tensors to logits: one file per architecture on shared blocks, and the table that names them."""

from collections.abc import Callable
from dataclasses import dataclass

from samovar.models import gemma3, llama, mistral, phi3, qwen2, qwen3, qwen3_moe, qwen3_next
from samovar.models.blocks import Layer
from samovar.models.config import DecoderConfig
from samovar.models.weights import WeightSource


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to read a config of this `model_type`, how to take one layer's tensors, and how the names of its classes in
    transformers begin."""

    read_config: Callable[[dict[str, object], str], DecoderConfig]
    load_layer: Callable[[WeightSource, int, DecoderConfig], Layer]
    stem: str


ARCHITECTURES: dict[str, Architecture] = {
    "gemma3": Architecture(gemma3.read_config, gemma3.load_layer, "Gemma3"),
    "gemma3_text": Architecture(gemma3.read_config, gemma3.load_layer, "Gemma3"),
    "llama": Architecture(llama.read_config, llama.load_layer, "Llama"),
    "mistral": Architecture(mistral.read_config, mistral.load_layer, "Mistral"),
    "phi3": Architecture(phi3.read_config, phi3.load_layer, "Phi3"),
    "qwen2": Architecture(qwen2.read_config, qwen2.load_layer, "Qwen2"),
    "qwen3": Architecture(qwen3.read_config, qwen3.load_layer, "Qwen3"),
    "qwen3_moe": Architecture(qwen3_moe.read_config, qwen3_moe.load_layer, "Qwen3Moe"),
    "qwen3_next": Architecture(qwen3_next.read_config, qwen3_next.load_layer, "Qwen3Next"),
}
