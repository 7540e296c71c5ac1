"""The exact model of a GGUF file: its tensors dequantised to float32 by `gguf`, computed by `transformers`.

This is what quantised engines are measured against. Nothing of samovar takes part. It holds 4 bytes a weight in memory.
"""

from collections.abc import Iterator
from pathlib import Path

import gguf
import torch
from gguf.quants import dequantize
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_CONFIG_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def load_exact_model(path: Path) -> PreTrainedModel:
    """The model of a `llama` or `qwen2` file with plain RoPE, in float32."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], reader.fields[f"{architecture}.block_count"].contents()
    )
    settings = {ours: reader.fields[f"{architecture}.{theirs}"].contents() for theirs, ours in _CONFIG_KEYS.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert "rope_freqs.weight" not in tensors, "plain RoPE only"
    assert f"{architecture}.rope.scaling.type" not in reader.fields, "plain RoPE only"
    config = AutoConfig.for_model(
        architecture,
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        tie_word_embeddings="output.weight" not in tensors,
        rope_parameters={"rope_type": "default", "rope_theta": _rope_theta(reader, architecture)},
        **settings,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights: dict[str, torch.Tensor] = {}
    for name in model.state_dict():
        module, _, kind = name.rpartition(".")
        stored = tensors.get(f"{names.get_name(module)}.{kind}")
        if stored is None:
            assert name == "lm_head.weight", name
            continue  # tied: the embedding is the head
        weights[name] = _half_split(_dequantised(stored), name, config, architecture)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)  # its buffers are not in the state, and are on "meta"
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return model.eval()


def exact_logits(model: PreTrainedModel, ids_T: list[int], *, rows: int = 64) -> Iterator[torch.Tensor]:
    """Logits after each token, float32, in pieces of up to `rows` positions: a whole window is large."""
    with torch.inference_mode():
        hidden_TD = model.model(torch.tensor([ids_T]), use_cache=False).last_hidden_state[0]
        for piece in hidden_TD.split(rows):
            yield model.lm_head(piece)


def _dequantised(tensor: gguf.ReaderTensor, panel_rows: int = 4096) -> torch.Tensor:
    """The values in float32, dequantised a few rows at a time: whole embeddings would need several times their size."""
    values = torch.empty(tuple(int(n) for n in reversed(tensor.shape)))
    for start in range(0, len(values), panel_rows):
        panel = dequantize(tensor.data[start : start + panel_rows], tensor.tensor_type)
        values[start : start + panel_rows] = torch.from_numpy(panel.copy())
    return values


def _rope_theta(reader: gguf.GGUFReader, architecture: str) -> float:
    field = reader.fields.get(f"{architecture}.rope.freq_base")
    return 10_000.0 if field is None else float(field.contents())


def _half_split(values: torch.Tensor, name: str, config: object, architecture: str) -> torch.Tensor:
    """Bring q and k rows of `llama` files from the order (head, pair, half) back to (head, half, pair)."""
    if architecture != "llama" or not ("q_proj" in name or "k_proj" in name):
        return values
    n_heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
    rows = torch.arange(len(values)).reshape(n_heads, -1, 2).transpose(1, 2).reshape(-1)
    return values[rows]
