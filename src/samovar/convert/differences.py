"""Where other programs take a GGUF file for another model than Samovar does, or do not load it.

The architecture of the file says what llama.cpp builds (`src/llama-model.cpp`): `llama` and `phi3` without windows, `qwen3moe`
and `qwen3next` with experts in all layers, whose weights sum up to 1, and delta nets with heads of one width.
"""

from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import gguf_architecture


def differences(config: DecoderConfig) -> tuple[str, ...]:
    """A line for each. Lengths are in tokens."""
    architecture = gguf_architecture(config.architecture)
    found: list[str] = []
    windows = [window for window in config.windows if window is not None]
    longest = config.max_context if config.long_context is None else config.long_context.longest
    if architecture in ("llama", "phi3") and windows and min(windows) < longest:
        found.append(
            f"llama.cpp and programs built on it ignore {architecture}.attention.sliding_window: beyond {min(windows)} tokens "
            "their answers differ from those of the model; give them no longer contexts"
        )
    sparse = architecture in ("qwen3moe", "qwen3next")
    if sparse and config.experts is not None and (dense := config.experts.dense_layers):
        found.append(
            f"llama.cpp and programs built on it do not load this file: {len(dense)} of the {config.n_layers} layers have no "
            "experts (mlp_only_layers or decoder_sparse_step), and they expect experts in all layers; Samovar runs it"
        )
    elif sparse and config.experts is not None and not config.experts.is_renormalised:
        found.append(
            f"llama.cpp and programs built on it ignore {architecture}.expert_weights_norm: they make the weights of a token's "
            "experts sum up to 1, and their answers differ from those of the model at any length"
        )
    if (net := config.delta_net) is not None and net.d_key != net.d_value:
        found.append(
            f"llama.cpp and programs built on it do not load this file: keys of delta nets are {net.d_key} wide and values "
            f"{net.d_value}, and they take both to be of one width; Samovar runs it"
        )
    if architecture == "qwen3" and config.outputs.n_labels == 1:
        found.append(
            "llama.cpp and programs built on it make the scores of qwen3's labels sum up to 1: the score of a single label is "
            "always 1 there; give them the original reranker, which has yes and no"
        )
    return tuple(found)


def left_out(n_tensors: int) -> tuple[str, ...]:
    """A line where tensors that only predict several tokens at once are not written."""
    return (f"tensors that only predict several tokens at once are left out: {n_tensors}",) if n_tensors else ()
