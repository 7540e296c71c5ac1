"""Small PEFT adapter folders, written without PEFT."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS = {
    f"model.layers.{i}.{name}": shape
    for i in range(2)
    for name, shape in {
        "self_attn.q_proj": (24, 16), "self_attn.v_proj": (8, 16), "self_attn.o_proj": (16, 24), "mlp.up_proj": (40, 16),
    }.items()
}  # fmt: skip
"""The linear layers of the model that the adapters are for: (n_out, n_in)."""

CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/model", "inference_mode": True,
    "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "bias": "none", "target_modules": ["q_proj", "v_proj"],
    "fan_in_fan_out": False, "modules_to_save": None, "init_lora_weights": True, "use_rslora": False, "use_dora": False,
    "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None, "layers_pattern": None, "revision": None,
}  # fmt: skip

Weights = dict[str, np.ndarray]


def tensor_name(layer: str, which: str) -> str:
    return f"base_model.model.{layer}.lora_{which}.weight"


def weights_for(ranks: dict[str, int], dtype: type = np.float32) -> Weights:
    """Random A and B of the layers named, with these ranks."""
    rng = np.random.default_rng(1)
    weights = {}
    for layer, rank in ranks.items():
        n_out, n_in = LAYERS[layer]
        weights[tensor_name(layer, "A")] = rng.normal(size=(rank, n_in)).astype(dtype)
        weights[tensor_name(layer, "B")] = rng.normal(size=(n_out, rank)).astype(dtype)
    return weights


def layers_ending(*ends: str) -> list[str]:
    return [name for name in LAYERS if name.endswith(ends)]


def write_adapter(folder: Path, weights: Weights | None = None, **changes: object) -> Path:
    """A folder with these weights (default: those that `CONFIG` asks for) and changes to the config; `...` drops a key."""
    folder.mkdir(exist_ok=True)
    config = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if weights is None:
        weights = weights_for(dict.fromkeys(layers_ending("q_proj", "v_proj"), 4))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder
