"""Qwen3 with a mixture of experts: the layer of `qwen3`, with a few experts of many as its feed-forward block.

Source: Qwen3 technical report (arXiv 2505.09388), section 2, and `transformers.models.qwen3_moe`. A router, in float32, gives
each token a softmax over all experts; the largest few compute it, and their outputs are weighted by it. No expert is shared.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, UnsupportedModel
from samovar.kernels import Experts, Linear
from samovar.models import qwen3
from samovar.models.blocks import Norm, Step
from samovar.models.config import ConfigReader, DecoderConfig, ExpertsConfig, read_decoder_config
from samovar.models.expert_weights import take_experts
from samovar.models.weights import WeightSource

F32 = NDArray[np.float32]
_MAX_EXPERTS = 4096
_OWN_KEYS = (
    "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
    "mlp_only_layers", "qkv_bias", "use_qk_norm", "shared_expert_intermediate_size",
)  # fmt: skip
_OF_TRAINING = ("output_router_logits", "router_aux_loss_coef")
_PUBLISHED_FFN = 6144


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """Defaults are those of the published class. Raises as `read_decoder_config`."""
    own = {key: raw[key] for key in _OWN_KEYS if key in raw}
    rest = {key: value for key, value in raw.items() if key not in (*_OWN_KEYS, *_OF_TRAINING)}
    if rest.get("use_sliding_window") is not True:
        rest["use_sliding_window"] = False
    rest.pop("max_window_layers", None)  # the published class has a window in all layers or in none
    config = read_decoder_config({"intermediate_size": _PUBLISHED_FFN, **rest}, where, sliding="everywhere")
    return replace(config, experts=read_experts(ConfigReader(own, where), config.n_layers))


def read_experts(reader: ConfigReader, n_layers: int) -> ExpertsConfig | None:
    """Takes all keys about experts; None where the config asks for none, and so for dense layers. Raises as `read_config`."""
    where, count, local = reader.where, reader.take("num_experts"), reader.take("num_local_experts")
    if count is not None and local is not None and count != local:
        raise FormatError(f"{where}: num_experts is {count!r}, and num_local_experts is {local!r}; expected the same")
    for key, expected in (("qkv_bias", False), ("use_qk_norm", True), ("shared_expert_intermediate_size", 0)):
        if (value := reader.take(key)) is not None and value != expected:
            raise UnsupportedModel(f"{where}: {key} {value!r} is not implemented; expected {expected!r}")
    count = local if count is None else count
    sizes = ConfigReader({"num_experts": 128 if count is None else count}, where)
    n_experts = 0 if count == 0 and count is not False else sizes.size("num_experts", maximum=_MAX_EXPERTS)
    n_chosen = reader.size("num_experts_per_tok", default=8)
    d_ffn, step = reader.size("moe_intermediate_size", default=768), reader.size("decoder_sparse_step", default=1)
    is_renormalised, listed = reader.switch("norm_topk_prob"), reader.take("mlp_only_layers") or []
    reader.finish()
    if not isinstance(listed, list) or any(isinstance(i, bool) or not isinstance(i, int) for i in listed):
        raise FormatError(f"{where}: mlp_only_layers is {listed!r}; expected a list of layers' numbers")
    dense = frozenset(i for i in range(n_layers) if i in listed or (i + 1) % step)
    if not n_experts or len(dense) == n_layers:
        return None
    if n_chosen > n_experts:
        raise FormatError(f"{where}: num_experts_per_tok is {n_chosen}, and there are {n_experts} experts; expected no more")
    return ExpertsConfig(
        n_experts=n_experts, n_chosen=n_chosen, d_ffn=d_ffn, is_renormalised=is_renormalised, dense_layers=dense
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseMlp:
    """x + the weighted outputs of the experts that the router chooses for norm(x)."""

    router: Linear
    experts: Experts
    n_chosen: int
    is_renormalised: bool

    def __call__(self, step: Step, x_TD: F32, norm: Norm) -> F32:
        """[T, D] to [T, D]."""
        ops = step.ops
        normed_TD = ops.rms_norm(x_TD, *norm)
        logits_TE = ops.linear(normed_TD, self.router)
        ids_TC, weights_TC = ops.route(logits_TE, self.n_chosen, is_renormalised=self.is_renormalised)
        return ops.experts(normed_TD, self.experts, ids_TC, weights_TC, x_TD)


def load_layer(source: WeightSource, index: int, config: DecoderConfig) -> qwen3.Qwen3Layer:
    """Take layer `index`."""
    if config.experts is None or index in config.experts.dense_layers:
        return qwen3.load_layer(source, index, config)
    return qwen3.load_layer(source, index, config, load_sparse)


def load_sparse(source: WeightSource, name: str, config: DecoderConfig) -> SparseMlp:
    """Take the router and the experts under `name`."""
    experts = config.experts
    assert experts is not None
    return SparseMlp(
        router=source.router(f"{name}.gate.weight", experts.n_experts, config.d_model),
        experts=take_experts(source, f"{name}.experts", experts, config.d_model),
        n_chosen=experts.n_chosen,
        is_renormalised=experts.is_renormalised,
    )
