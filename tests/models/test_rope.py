import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from samovar.errors import FormatError, UnsupportedModel
from samovar.models.rope import read_rope

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}  # fmt: skip
VARIANTS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    LLAMA3,
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096, "beta_fast": 16.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "attention_factor": 0.8},
    {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 2048, "mscale": 1.0, "mscale_all_dim": 0.7},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "truncate": False},
]


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("parameters", VARIANTS, ids=lambda p: "-".join(map(str, p.values())))
def test_tables_equal_those_of_transformers(parameters, theta):
    parameters = parameters | {"rope_theta": theta}
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=8192, rope_parameters=dict(parameters))
    positions = np.array([0, 1, 31, 32, 500, 4097, 8191])
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor(positions)[None])
    ours = read_rope(parameters, d_rotary=64, max_context=8192, where="config.json").tables(positions)
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, reference[0, :, :32].numpy(), atol=2e-3)
        np.testing.assert_allclose(mine[:5], reference[0, :5, :32].numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "su", "mrope"])
def test_an_unknown_type_is_refused_by_name(kind):
    with pytest.raises(UnsupportedModel, match=kind):
        read_rope({"rope_theta": 1e4, "rope_type": kind, "factor": 2.0}, d_rotary=64, max_context=64, where="config.json")


def test_an_unread_parameter_is_refused_by_name():
    with pytest.raises(UnsupportedModel, match="long_factor"):
        read_rope({"rope_theta": 1e4, "long_factor": [1]}, d_rotary=64, max_context=64, where="config.json")


@pytest.mark.parametrize("value", [0, -1.0, "4", None, math.nan, math.inf, True])
def test_a_factor_that_is_no_positive_number_is_refused(value):
    with pytest.raises(FormatError, match="factor"):
        read_rope({"rope_theta": 1e4, "rope_type": "linear", "factor": value}, d_rotary=64, max_context=64, where="x")
