"""Small decoders of each architecture over random quantised weights, on the native kernels."""

import numpy as np

from samovar.engine.engine import Engine, Limits
from samovar.engine.page_pool import PagePool
from samovar.kernels import KvType, Ops
from samovar.models import ARCHITECTURES
from samovar.models.blocks import Decoder, load_decoder
from samovar.models.weights import WeightSource
from samovar.tensors.dtypes import F32, Q4_0, Q8_0
from samovar.tensors.stored import StoredTensor
from tests.kernels.native_cases import random_weight

VOCAB, N_LAYERS, N_HEADS, N_KV_HEADS, D_HEAD, WIDTH, D_FFN = 333, 3, 6, 2, 32, 96, 160
NAMES = ("qwen3", "qwen3_moe", "qwen2", "llama", "mistral", "gemma3_text", "qwen3_next")
WINDOW = 37  # of mistral in all layers, of gemma3_text in its local ones
N_EXPERTS, N_CHOSEN, D_EXPERT, DENSE_LAYER = 9, 3, 64, 1

EXPERTS = {
    "num_experts": N_EXPERTS, "num_experts_per_tok": N_CHOSEN, "moe_intermediate_size": D_EXPERT, "norm_topk_prob": True,
    "mlp_only_layers": [DENSE_LAYER],
}  # fmt: skip
DELTA_NET = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 48, "shared_expert_intermediate_size": 64,
}  # fmt: skip


def random_decoder(name: str, ops: Ops, max_context: int = 4096) -> Decoder:
    """Biases wherever the architecture may have them; query and key norms where it has those."""
    config = ARCHITECTURES[name].read_config(
        {
            "model_type": name, "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": D_FFN,
            "num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS, "num_key_value_heads": N_KV_HEADS,
            "head_dim": D_HEAD, "max_position_embeddings": max_context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            **({"attention_bias": True, "mlp_bias": True} if name == "llama" else {}),
            **(EXPERTS if name in ("qwen3_moe", "qwen3_next") else {}),
            **(DELTA_NET if name == "qwen3_next" else {}),
            **({"sliding_window": WINDOW} if name in ("mistral", "gemma3_text") else {}),
            **({"sliding_window_pattern": 2} if name == "gemma3_text" else {}),
        },
        "test",
    )  # fmt: skip
    centre = 0.0 if config.has_centred_norms else 1.0
    tensors: dict[str, StoredTensor] = {}

    def add(name: str, n_out: int, n_in: int = 0) -> None:
        seed = len(tensors)
        if n_in:
            tensors[name] = random_weight(Q8_0 if seed % 3 else Q4_0, n_out, n_in, seed)
        else:
            add_values(name, (n_out,), centre)

    def add_values(name: str, shape: tuple[int, ...], centre: float) -> None:
        values = np.random.default_rng(len(tensors)).normal(centre, 0.3, shape).astype(np.float32)
        tensors[name] = StoredTensor(name=name, type=F32, shape=shape, data=values.reshape(-1).view(np.uint8), source="test")

    def add_delta_net(linear: str) -> None:
        net = config.delta_net
        assert net is not None
        add(f"{linear}.in_proj_qkvz.weight", net.n_channels + net.d_values, WIDTH)
        add(f"{linear}.in_proj_ba.weight", 2 * net.n_value_heads, WIDTH)
        add(f"{linear}.out_proj.weight", WIDTH, net.d_values)
        add_values(f"{linear}.conv1d.weight", (net.n_channels, 1, net.n_taps), 0.3)
        add_values(f"{linear}.norm.weight", (net.d_value,), 1.0)
        for part in ("A_log", "dt_bias"):
            add_values(f"{linear}.{part}", (net.n_value_heads,), 0.0)

    def add_experts(mlp: str) -> None:
        seed = len(tensors)
        tensors[f"{mlp}.gate.weight"] = random_weight(F32, N_EXPERTS, WIDTH, seed)
        for part, (n_out, n_in) in {
            "gate_proj": (D_EXPERT, WIDTH),
            "up_proj": (D_EXPERT, WIDTH),
            "down_proj": (WIDTH, D_EXPERT),
        }.items():
            for expert in range(N_EXPERTS):
                tensors[f"{mlp}.experts.{expert}.{part}.weight"] = random_weight(Q4_0, n_out, n_in, len(tensors))
        if d_shared := config.d_shared_expert:
            tensors[f"{mlp}.shared_expert_gate.weight"] = random_weight(F32, 1, WIDTH, seed + 1)
            for part, sizes in {"gate": (d_shared, WIDTH), "up": (d_shared, WIDTH), "down": (WIDTH, d_shared)}.items():
                add(f"{mlp}.shared_expert.{part}_proj.weight", *sizes)

    d_query, d_key = N_HEADS * D_HEAD, N_KV_HEADS * D_HEAD
    n_query_parts = 1 if config.delta_net is None else 2  # queries and gates
    attention = {
        "q_proj": (n_query_parts * d_query, WIDTH), "k_proj": (d_key, WIDTH), "v_proj": (d_key, WIDTH),
        "o_proj": (WIDTH, d_query),
    }  # fmt: skip
    mlp = {"gate_proj": (D_FFN, WIDTH), "up_proj": (D_FFN, WIDTH), "down_proj": (WIDTH, D_FFN)}
    add("model.embed_tokens.weight", VOCAB, WIDTH)
    add("model.norm.weight", WIDTH)
    for index in range(N_LAYERS):
        layer = f"model.layers.{index}"
        add(f"{layer}.input_layernorm.weight", WIDTH)
        add(f"{layer}.post_attention_layernorm.weight", WIDTH)
        is_net = config.delta_net is not None and index in config.delta_net.layers
        for part, shapes, has_bias in (
            ("self_attn", attention, config.has_attention_bias),
            ("mlp", mlp, config.has_mlp_bias),
        ):
            if part == "self_attn" and is_net:
                add_delta_net(f"{layer}.linear_attn")
                continue
            if part == "mlp" and config.experts is not None and index != DENSE_LAYER:
                add_experts(f"{layer}.mlp")
                continue
            for projection, (n_out, n_in) in shapes.items():
                add(f"{layer}.{part}.{projection}.weight", n_out, n_in)
                if has_bias and not (name == "qwen2" and projection == "o_proj"):
                    add(f"{layer}.{part}.{projection}.bias", n_out)
        if name == "gemma3_text":
            add(f"{layer}.pre_feedforward_layernorm.weight", WIDTH)
            add(f"{layer}.post_feedforward_layernorm.weight", WIDTH)
        if name.startswith(("qwen3", "gemma3")) and not is_net:
            add(f"{layer}.self_attn.q_norm.weight", D_HEAD)
            add(f"{layer}.self_attn.k_norm.weight", D_HEAD)
    source = WeightSource(tensors, ops, where="test")
    return load_decoder(config, source, ops, ARCHITECTURES[name].load_layer)


def random_pool(kv_type: KvType = "f16", n_pages: int = 200, decoder: Decoder | None = None) -> PagePool:
    """Pages for a random decoder; one with recurrent states has to be given, and gets 65 slots."""
    if decoder is not None:
        return PagePool.of(decoder.config, kv_type, n_pages=n_pages, n_sequences=65)
    return PagePool(kv_type, n_pages=n_pages, n_layers=N_LAYERS, n_kv_heads=N_KV_HEADS, d_head=D_HEAD)


def random_engine(name: str, ops: Ops, max_step_tokens: int = 512) -> Engine:
    """An engine over a random decoder."""
    decoder = random_decoder(name, ops)
    return Engine(decoder, ops, random_pool(decoder=decoder), VOCAB, 512, Limits(max_step_tokens=max_step_tokens))
