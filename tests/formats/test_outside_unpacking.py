"""AWQ and GPTQ folders hold the values that AutoAWQ and AutoGPTQ read from them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.formats.quantised_folders import X, opened, values, write
from tests.formats.quantised_parts import METHODS
from tests.packages import missing


def module_of(name):
    """A file of theirs, which `make test` fetches."""
    path = Path(sys.prefix) / "quantisers" / f"{name}.py"
    if not path.exists():
        missing(f"{path}: `make test` fetches it")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored_in(folder):
    return {k.removeprefix(f"{X}."): t for k, t in load_file(folder / "model.safetensors").items() if k.startswith(X)}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.config["quant_method"] == "awq"])
def test_autoawq_reads_the_same_values(name, tmp_path):
    write(tmp_path, METHODS[name])
    stored = stored_in(tmp_path)
    n_in = len(stored["qweight"])
    theirs_KN = module_of("packing_utils").dequantize_gemm(
        stored["qweight"], stored["qzeros"], stored["scales"].float(), 4, n_in // len(stored["scales"])
    )
    assert np.array_equal(values(opened(tmp_path), f"{X}.weight"), theirs_KN.T.numpy())


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.config.get("checkpoint_format") == "gptq"])
def test_autogptq_reads_the_same_values(name, tmp_path):
    method = METHODS[name]
    write(tmp_path, method)
    stored = stored_in(tmp_path)
    n_in, n_out = len(stored["g_idx"]), stored["qweight"].shape[1]
    layer = module_of("qlinear_cuda").QuantLinear(
        method.config["bits"], method.config["group_size"], n_in, n_out, bias=False, weight_dtype=torch.float32
    )
    layer.load_state_dict(stored)  # the scales in float32, since a product in float16 would be rounded
    theirs_KN = layer(torch.eye(n_in))
    assert np.array_equal(values(opened(tmp_path), f"{X}.weight"), theirs_KN.T.numpy())
