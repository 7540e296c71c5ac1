"""Small quantised folders, and what is said of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar.errors import SamovarError
from samovar.formats import open_checkpoint
from samovar.formats.hf_folder import HfCheckpoint
from samovar.kernels.dequantise import dequantise_matrix
from tests.formats.quantised_parts import Method, write_quantised

X = "model.layers.0.mlp.up_proj"
N_OUT, N_IN = 96, 256


def weights(n_out: int = N_OUT, n_in: int = N_IN) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(n_out)
    return {
        f"{X}.weight": torch.randn(n_out, n_in, generator=generator) / 16,
        "model.layers.0.mlp.down_proj.weight": torch.randn(64, n_in, generator=generator) / 16,
        "model.norm.weight": torch.ones(n_out),
        "lm_head.weight": torch.randn(8, n_out, generator=generator).to(torch.bfloat16),
    }


def write(folder: Path, method: Method, **sizes: int) -> dict[str, torch.Tensor]:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "quantization_config": method.config}))
    return write_quantised(folder, weights(**sizes), method)


def opened(folder: Path) -> HfCheckpoint:
    checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint, HfCheckpoint)
    return checkpoint


def values(checkpoint: HfCheckpoint, name: str) -> np.ndarray:
    tensor = checkpoint.tensors[name].stored()
    return dequantise_matrix(tensor)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))


def change_tensor(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, folder / "model.safetensors")


def refusal(folder: Path, error: type[SamovarError]) -> str:
    """What is said when all weights are made."""
    with pytest.raises(error) as caught:
        [tensor.stored() for tensor in opened(folder).tensors.values()]
    said = str(caught.value)
    assert str(folder) in said
    return said
