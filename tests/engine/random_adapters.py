"""Random low-rank adapters for the decoders of `random_decoders`, in memory."""

import numpy as np

from samovar.kernels import Linear, Ops
from samovar.models.blocks import Decoder
from samovar.models.lora import LoraAdapter, LowRank
from samovar.tensors.dtypes import F16, F32
from samovar.tensors.stored import StoredTensor

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MLP = ALL[4:]
CASES = {
    "wide": (16, ALL, F16),
    "odd": (3, ALL, F32),
    "one": (1, ("v_proj", "up_proj"), F32),
    "ends": (20, ("o_proj", "down_proj"), F16),
    "first": (8, ("q_proj", "gate_proj"), F32),
}
"""Rank, adapted layers and stored type by the adapter's name."""


def random_adapter(name: str, model: Decoder, ops: Ops) -> LoraAdapter:
    """The adapter of this name, large enough to change what the model says."""
    rank, kinds, kind = CASES[name]
    rng = np.random.default_rng(sorted(CASES).index(name))

    def packed(*shape: int) -> Linear:
        values = rng.normal(0, 1.2 / shape[1] ** 0.5, shape).astype(np.float16 if kind is F16 else np.float32)
        data = values.reshape(-1).view(np.uint8)
        return ops.pack(StoredTensor(name=name, type=kind, shape=shape, data=data, source="test"))

    layers = {layer: shape for layer, shape in model.projections.items() if layer.endswith(kinds)}
    n_layers, experts = model.config.n_layers, model.config.experts
    n_dense = n_layers if experts is None else len(experts.dense_layers)
    assert len(layers) == sum(n_dense if kind in MLP else n_layers for kind in kinds)
    return LoraAdapter(terms={n: LowRank(packed(rank, n_in), packed(n_out, rank)) for n, (n_out, n_in) in layers.items()})
