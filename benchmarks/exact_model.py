"""The exact model of a GGUF file: its tensors dequantised to float32 by `gguf`, computed by `transformers`.

This is what quantised engines are measured against. Nothing of samovar takes part. `load_exact_model` holds 4 bytes a weight in
memory; an `ExactFile` gives the weights of one part at a time.
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


class ExactFile:
    """A `llama` or `qwen2` file with plain RoPE. `model` has no weights, but for its rotary embedding; `tensors` has them."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        settings = {ours: reader.fields[f"{architecture}.{theirs}"].contents() for theirs, ours in _CONFIG_KEYS.items()}
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        assert "rope_freqs.weight" not in self.tensors, "plain RoPE only"
        assert f"{architecture}.rope.scaling.type" not in reader.fields, "plain RoPE only"
        self.is_tied = "output.weight" not in self.tensors
        self._config = AutoConfig.for_model(
            architecture,
            vocab_size=int(self.tensors["token_embd.weight"].shape[1]),
            tie_word_embeddings=self.is_tied,
            rope_parameters={"rope_type": "default", "rope_theta": _rope_theta(reader, architecture)},
            **settings,
        )
        with torch.device("meta"):
            self.model: PreTrainedModel = AutoModelForCausalLM.from_config(self._config, dtype=torch.float32)
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(config=self._config)  # its buffers are not in the state
        self.model.eval()
        block_count = reader.fields[f"{architecture}.block_count"].contents()
        self._names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], block_count)

    def name_of(self, parameter: str) -> str:
        """The file's name of a parameter of the model."""
        module, _, kind = parameter.rpartition(".")
        return f"{self._names.get_name(module)}.{kind}"

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows of a tensor, dequantised a few at a time: whole embeddings would need several times their size."""
        tensor, panel_rows = self.tensors[name], 4096
        n_rows = int(tensor.shape[-1])
        stop = n_rows if stop is None else min(stop, n_rows)
        values = torch.empty((stop - start, *(int(n) for n in tensor.shape[-2::-1])))
        for at in range(start, stop, panel_rows):
            panel = dequantize(tensor.data[at : min(at + panel_rows, stop)], tensor.tensor_type)
            values[at - start : at - start + len(panel)] = torch.from_numpy(panel.copy())
        return values

    def arranged(self, parameter: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows of a parameter's tensor in the order of the model: q and k of `llama` files are (head, pair, half), and become
        (head, half, pair)."""
        if self._config.model_type != "llama" or not ("q_proj" in parameter or "k_proj" in parameter):
            return rows
        n_heads = self._config.num_attention_heads if "q_proj" in parameter else self._config.num_key_value_heads
        order = torch.arange(len(rows)).reshape(n_heads, -1, 2).transpose(1, 2).reshape(-1)
        return rows[order]


def load_exact_model(path: Path) -> PreTrainedModel:
    """The model of a file that `ExactFile` reads, with its weights in float32."""
    file = ExactFile(path)
    names = [name for name in file.model.state_dict() if not (file.is_tied and name == "lm_head.weight")]
    weights = {name: file.arranged(name, file.rows(file.name_of(name))) for name in names}
    file.model.load_state_dict(weights, strict=False, assign=True)
    file.model.tie_weights()
    assert not any(tensor.is_meta for tensor in (*file.model.parameters(), *file.model.buffers()))
    return file.model


def exact_logits(model: PreTrainedModel, ids_T: list[int], *, rows: int = 64) -> Iterator[torch.Tensor]:
    """Logits after each token, float32, in pieces of up to `rows` positions: a whole window is large."""
    with torch.inference_mode():
        hidden_TD = model.model(torch.tensor([ids_T]), use_cache=False).last_hidden_state[0]
        for piece in hidden_TD.split(rows):
            yield model.lm_head(piece)


def _rope_theta(reader: gguf.GGUFReader, architecture: str) -> float:
    field = reader.fields.get(f"{architecture}.rope.freq_base")
    return 10_000.0 if field is None else float(field.contents())
