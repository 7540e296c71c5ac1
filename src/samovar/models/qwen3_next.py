"""Qwen3-Next: of four layers three are gated delta nets, and one is attention with gated outputs; experts, one of them shared.

Source: Gated Delta Networks (Yang et al., 2024, arXiv 2412.06464), and `transformers.models.qwen3_next`. A delta net keeps a
matrix for each head and sequence instead of keys and values. Attention rotates a quarter of each head. Norms are centred: files
hold how far their weights are from 1, but for the norm of a delta net's outputs. Heads for predicting several tokens (`mtp.*`)
are left out, as `transformers` leaves them out.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, UnsupportedModel
from samovar.kernels import DeltaNet, Linear
from samovar.models import qwen3_moe
from samovar.models.blocks import GatedMlp, Mlp, Norm, Step, project, project_onto
from samovar.models.config import ConfigReader, DecoderConfig, DeltaNetConfig, read_decoder_config
from samovar.models.qwen3_moe import SparseMlp
from samovar.models.weights import Projection, WeightSource

F32 = NDArray[np.float32]
MOST_KEY_WIDTH = 256  # what the native kernel has room for
_EXPERT_KEYS = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers",
)  # fmt: skip
_NET_KEYS = (
    "linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads", "linear_num_value_heads",
    "layer_types", "full_attention_interval", "shared_expert_intermediate_size",
)  # fmt: skip
_OF_TRAINING = ("output_router_logits", "router_aux_loss_coef")
_PUBLISHED: dict[str, object] = {
    "intermediate_size": 5632, "head_dim": 256, "num_key_value_heads": 2, "max_position_embeddings": 32_768,
    "partial_rotary_factor": 0.25,
}  # fmt: skip
_PUBLISHED_EXPERTS: dict[str, object] = {
    "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512, "norm_topk_prob": True,
}  # fmt: skip
_KINDS = ("linear_attention", "full_attention")


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """Defaults are those of the published class. Raises as `read_decoder_config`."""
    own = ConfigReader({key: raw[key] for key in _NET_KEYS if key in raw}, where)
    experts = ConfigReader(_PUBLISHED_EXPERTS | {key: raw[key] for key in _EXPERT_KEYS if key in raw}, where)
    rest = {key: value for key, value in raw.items() if key not in (*_NET_KEYS, *_EXPERT_KEYS, *_OF_TRAINING)}
    config = read_decoder_config(_PUBLISHED | rest, where, is_partly_rotated=True)
    if config.has_attention_bias or config.has_mlp_bias:
        raise UnsupportedModel(f"{where}: attention_bias and mlp_bias are not implemented for qwen3_next; expected false")
    config = replace(
        config,
        experts=qwen3_moe.read_experts(experts, config.n_layers),
        d_shared_expert=own.size("shared_expert_intermediate_size", default=512),
        delta_net=_read_delta_net(own, config.n_layers),
        has_centred_norms=True,
    )
    own.finish()
    return config


def _read_delta_net(own: ConfigReader, n_layers: int) -> DeltaNetConfig | None:
    """None where all layers are attention."""
    net = DeltaNetConfig(
        layers=_read_layers(own, n_layers),
        n_key_heads=own.size("linear_num_key_heads", default=16),
        n_value_heads=own.size("linear_num_value_heads", default=32),
        d_key=own.size("linear_key_head_dim", default=128, maximum=MOST_KEY_WIDTH),
        d_value=own.size("linear_value_head_dim", default=128, maximum=1024),
        n_taps=own.size("linear_conv_kernel_dim", default=4, maximum=16),
    )
    if net.n_value_heads % net.n_key_heads:
        raise FormatError(f"{own.where}: {net.n_value_heads} value heads do not divide among {net.n_key_heads} key heads")
    if net.n_taps < 2:
        raise UnsupportedModel(f"{own.where}: linear_conv_kernel_dim {net.n_taps} is not implemented; expected 2 or more")
    return net if net.layers else None


def _read_layers(own: ConfigReader, n_layers: int) -> frozenset[int]:
    """The layers that are delta nets: as they are listed, or all but every `full_attention_interval`th."""
    kinds, interval = own.take("layer_types"), own.size("full_attention_interval", default=4)
    if kinds is None:
        kinds = [_KINDS[(index + 1) % interval == 0] for index in range(n_layers)]
    if not isinstance(kinds, list) or len(kinds) != n_layers or any(kind not in _KINDS for kind in kinds):
        raise FormatError(
            f"{own.where}: layer_types is {kinds!r}; expected {' or '.join(_KINDS)} for each of {n_layers} layers"
        )
    layers = frozenset(index for index, kind in enumerate(kinds) if kind == "linear_attention")
    if len(layers) == n_layers:
        raise UnsupportedModel(f"{own.where}: no layer is full_attention; expected one at least")
    return layers


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedAttention:
    """x + o(attention of norm(x), each head's output times the sigmoid of its gate). `place` counts such layers."""

    place: int
    q: Projection
    gate: Projection
    k: Projection
    v: Projection
    o: Projection
    q_norm_K: F32
    k_norm_K: F32

    def __call__(self, step: Step, x_TD: F32, norm: Norm) -> F32:
        """[T, D] to [T, D]."""
        ops, n_tokens, d_head, eps = step.ops, len(x_TD), len(self.q_norm_K), norm[1]
        q, gate_TN, k, v = project(step, x_TD, norm, self.q, self.gate, self.k, self.v)
        q_THK, k_TGK, v_TGK = (heads.reshape(n_tokens, -1, d_head) for heads in (q, k, v))
        q_THK = ops.rope(ops.rms_norm(q_THK, self.q_norm_K, eps), step.cos_TR, step.sin_TR)
        k_TGK = ops.rope(ops.rms_norm(k_TGK, self.k_norm_K, eps), step.cos_TR, step.sin_TR)
        o_THK = step.attend(self.place, q_THK, k_TGK, v_TGK)
        return project_onto(x_TD, step, ops.sigmoid_gate(gate_TN, o_THK.reshape(n_tokens, -1)), self.o)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet:
    """x + o(norm(what memories answer to norm(x)) * silu(z)). `place` counts such layers."""

    place: int
    mixed: Projection
    z: Projection
    gates: Projection
    net: DeltaNet
    norm_U: F32
    o: Projection

    def __call__(self, step: Step, x_TD: F32, norm: Norm) -> F32:
        """[T, D] to [T, D]."""
        mixed_TM, z_TN, gates_TM = project(step, x_TD, norm, self.mixed, self.z, self.gates)
        o_THU = step.ops.rms_norm(step.attend.recur(self.place, mixed_TM, gates_TM, self.net), self.norm_U, norm[1])
        return project_onto(x_TD, step, o_THU.reshape(len(x_TD), -1), self.o, gate_TD=z_TN)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMlp:
    """What `sparse` makes, and an expert that computes every token, weighted by the sigmoid of its own gate [1, D]."""

    sparse: SparseMlp
    shared: GatedMlp
    gate: Linear

    def __call__(self, step: Step, x_TD: F32, norm: Norm) -> F32:
        """[T, D] to [T, D]."""
        out_TD = self.sparse(step, x_TD, norm)
        gate_TF, up_TF = project(step, x_TD, norm, self.shared.gate, self.shared.up)
        made_TD = project_onto(None, step, up_TF, self.shared.down, gate_TD=gate_TF)
        (weight_T1,) = step.ops.linears(x_TD, (self.gate,), norm=norm)
        step.ops.accumulate(step.ops.sigmoid_gate(weight_T1, made_TD), out_TD)
        return out_TD


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3NextLayer:
    """A mixer of tokens, then a feed-forward block, each of the normalised input and added to it."""

    mixer_norm_D: F32
    mixer: GatedAttention | GatedDeltaNet
    mlp_norm_D: F32
    mlp: Mlp
    norm_eps: float

    def __call__(self, index: int, x_TD: F32, step: Step) -> F32:  # noqa: ARG002  # mixers know their places
        """[T, D] to [T, D]."""
        x_TD = self.mixer(step, x_TD, (self.mixer_norm_D, self.norm_eps))
        return self.mlp(step, x_TD, (self.mlp_norm_D, self.norm_eps))


def load_layer(source: WeightSource, index: int, config: DecoderConfig) -> Qwen3NextLayer:
    """Take layer `index`."""
    name, net = f"model.layers.{index}", config.delta_net
    n_nets_before = 0 if net is None else sum(layer < index for layer in net.layers)
    mixer: GatedAttention | GatedDeltaNet
    if net is not None and index in net.layers:
        mixer = _load_delta_net(source, f"{name}.linear_attn", n_nets_before, config.d_model, net)
    else:
        mixer = _load_attention(source, f"{name}.self_attn", index - n_nets_before, config)
    is_dense = config.experts is None or index in config.experts.dense_layers
    return Qwen3NextLayer(
        mixer_norm_D=source.norm(f"{name}.input_layernorm.weight", config.d_model),
        mixer=mixer,
        mlp_norm_D=source.norm(f"{name}.post_attention_layernorm.weight", config.d_model),
        mlp=(GatedMlp.load if is_dense else _load_shared)(source, f"{name}.mlp", config),
        norm_eps=config.norm_eps,
    )


def _load_attention(source: WeightSource, name: str, place: int, config: DecoderConfig) -> GatedAttention:
    """Queries and gates of a head lie together in one matrix."""
    d_model, d_head = config.d_model, config.d_head
    d_query, d_key = config.n_heads * d_head, config.n_kv_heads * d_head
    rows = np.arange(2 * d_query).reshape(config.n_heads, 2, d_head)
    q, gate = source.mixed_projection(
        f"{name}.q_proj", {"query": rows[:, 0].reshape(-1), "gate": rows[:, 1].reshape(-1)}, d_model
    )
    return GatedAttention(
        place=place,
        q=q,
        gate=gate,
        k=source.projection(f"{name}.k_proj", d_key, d_model, has_bias=False),
        v=source.projection(f"{name}.v_proj", d_key, d_model, has_bias=False),
        o=source.projection(f"{name}.o_proj", d_model, d_query, has_bias=False),
        q_norm_K=source.norm(f"{name}.q_norm.weight", d_head),
        k_norm_K=source.norm(f"{name}.k_norm.weight", d_head),
    )


def _load_delta_net(source: WeightSource, name: str, place: int, d_model: int, net: DeltaNetConfig) -> GatedDeltaNet:
    """Queries, keys, values and z of a key head lie together in one matrix, and so do its b and a; GGUF files have z apart."""
    d_values, n_groups, n_value_heads = net.d_values, net.n_key_heads, net.n_value_heads
    if source.stacks_experts and source.has(f"{name}.in_proj_qkv.weight"):
        mixed = source.projection(f"{name}.in_proj_qkv", net.n_channels, d_model, has_bias=False)
        z = source.projection(f"{name}.in_proj_z", d_values, d_model, has_bias=False)
    else:
        mixed, z = source.mixed_projection(f"{name}.in_proj_qkvz", mixed_rows(net), d_model)
    rows = np.arange(2 * n_value_heads).reshape(n_groups, 2, -1).swapaxes(0, 1).reshape(-1)
    (gates,) = source.mixed_projection(f"{name}.in_proj_ba", {"gates": rows}, d_model)
    held_H = source.vector(f"{name}.A_log", n_value_heads)
    taps_MJ = source.array(f"{name}.conv1d.weight", (net.n_channels, 1, net.n_taps)).reshape(net.n_channels, net.n_taps)
    return GatedDeltaNet(
        place=place,
        mixed=mixed,
        z=z,
        gates=gates,
        net=DeltaNet(
            taps_JM=np.ascontiguousarray(taps_MJ.T),
            rate_H=-held_H if source.stacks_experts else rates(held_H),
            bias_H=source.vector(f"{name}.dt_bias", n_value_heads),
        ),
        norm_U=source.vector(f"{name}.norm.weight", net.d_value),
        o=source.projection(f"{name}.out_proj", d_model, d_values, has_bias=False),
    )


def rates(log_H: F32) -> F32:
    """What A_log is the logarithm of, rounded once. GGUF files hold it, with a minus."""
    with np.errstate(over="ignore"):
        return np.exp(log_H.astype(np.float64)).astype(np.float32)


def mixed_rows(net: DeltaNetConfig) -> dict[str, NDArray[np.int64]]:
    """Which rows of the joined matrix are queries, keys and values, in this order, and which are z."""
    d_key, d_group = net.d_key, net.d_values // net.n_key_heads
    rows = np.arange(net.n_channels + net.d_values).reshape(net.n_key_heads, -1)
    q, k, v, z = np.split(rows, [d_key, 2 * d_key, 2 * d_key + d_group], axis=1)
    return {"qkv": np.concatenate([part.reshape(-1) for part in (q, k, v)]), "z": z.reshape(-1)}


def _load_shared(source: WeightSource, name: str, config: DecoderConfig) -> SharedMlp:
    """Take the router, the experts and the shared one under `name`."""
    return SharedMlp(
        sparse=qwen3_moe.load_sparse(source, name, config),
        shared=GatedMlp.load(source, f"{name}.shared_expert", replace(config, d_ffn=config.d_shared_expert)),
        gate=source.router(f"{name}.shared_expert_gate.weight", 1, config.d_model),
    )
