"""Models of published shapes with random weights, as GGUF files: what speed is measured on where no real weights are at hand.

Shapes are those of Qwen3's published configurations; storage types follow the rules of `llama-quantize` (llama.cpp,
`src/llama-quant.cpp`), without an importance matrix. The vocabulary is made up, of Qwen3's size and kind.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import BadRequest, StoreError
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.gguf_header import MetadataValue
from samovar.formats.gguf_writer import TensorPlan, write_gguf
from samovar.llm.random_blocks import random_blocks
from samovar.tensors.dtypes import BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TYPE_BY_NAME, TensorType
from samovar.tensors.stored import StoredTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class NetShape:
    """What a Qwen3-Next model has beside: gated delta nets in all layers but every `interval`th, heads that are rotated in
    part, and a shared expert."""

    n_key_heads: int = 16
    n_value_heads: int = 32
    d_key: int = 128
    d_value: int = 128
    n_taps: int = 4
    interval: int = 4
    d_rotary: int = 64
    d_shared: int = 512

    @property
    def d_values(self) -> int:
        """Width of the values of all heads."""
        return self.n_value_heads * self.d_value

    @property
    def n_channels(self) -> int:
        """Width of queries, keys and values of all heads."""
        return 2 * self.n_key_heads * self.d_key + self.d_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Qwen3 model, or with a `net` of a Qwen3-Next one. Widths in elements. Where there are experts, all layers
    have them, of width `d_expert`."""

    n_layers: int
    d_model: int
    n_heads: int
    d_ffn: int
    is_tied: bool
    n_kv_heads: int = 8
    d_head: int = 128
    vocab_size: int = 151_936
    max_context: int = 40_960
    rope_theta: float = 1e6
    n_experts: int = 0
    n_chosen: int = 8
    d_expert: int = 0
    net: NetShape | None = None

    def with_layers(self, n_layers: int) -> "Shape":
        """The same, cut to some layers, of which the last is attention."""
        net = self.net and replace(self.net, interval=min(self.net.interval, n_layers))
        return replace(self, n_layers=n_layers, net=net)


_30B_A3B: Final = Shape(
    n_layers=48, d_model=2048, n_heads=32, d_ffn=6144, is_tied=False, n_kv_heads=4, n_experts=128, d_expert=768
)
_4B: Final = Shape(n_layers=36, d_model=2560, n_heads=32, d_ffn=9728, is_tied=True)
_235B_A22B: Final = Shape(
    n_layers=94, d_model=4096, n_heads=64, d_ffn=12288, is_tied=False, n_kv_heads=4, n_experts=128, d_expert=1536
)
SHAPES: Final = {
    "qwen3-0.6b": Shape(n_layers=28, d_model=1024, n_heads=16, d_ffn=3072, is_tied=True),
    "qwen3-1.7b": Shape(n_layers=28, d_model=2048, n_heads=16, d_ffn=6144, is_tied=True),
    "qwen3-4b": _4B,
    "qwen3-4b-2507": replace(_4B, rope_theta=5e6, max_context=262_144),
    "qwen3-8b": Shape(n_layers=36, d_model=4096, n_heads=32, d_ffn=12288, is_tied=False),
    "qwen3-14b": Shape(n_layers=40, d_model=5120, n_heads=40, d_ffn=17408, is_tied=False),
    "qwen3-32b": Shape(n_layers=64, d_model=5120, n_heads=64, d_ffn=25600, is_tied=False),
    "qwen3-30b-a3b": _30B_A3B,
    "qwen3-30b-a3b-2507": replace(_30B_A3B, rope_theta=1e7, max_context=262_144),
    "qwen3-235b-a22b": _235B_A22B,
    "qwen3-235b-a22b-2507": replace(_235B_A22B, rope_theta=5e6, max_context=262_144),
    "qwen3-coder-30b-a3b": replace(_30B_A3B, rope_theta=1e7, max_context=262_144),
    "qwen3-coder-480b-a35b": Shape(
        n_layers=62, d_model=6144, n_heads=96, d_ffn=8192, is_tied=False, n_experts=160, d_expert=2560,
        rope_theta=1e7, max_context=262_144,
    ),
    "qwen3-next-80b-a3b": Shape(
        n_layers=48, d_model=2048, n_heads=16, d_ffn=5120, is_tied=False, n_kv_heads=2, d_head=256, n_experts=512, n_chosen=10,
        d_expert=512, rope_theta=1e7, max_context=262_144, net=NetShape(),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quant:
    """Storage types by role. `better` is that of half of the layers' `attn_v` and `ffn_down`, `head` the output matrix's."""

    name: str
    layers: TensorType
    head: TensorType
    better: TensorType | None = None


_CODEBOOKS_AND_SIGNS: Final = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0",
)  # fmt: skip
# A tied embedding counts as the output matrix, which llama-quantize keeps in Q6_K beside coarser types.
QUANTS: Final = {
    quant.name: quant
    for quant in (
        Quant("q4_0", Q4_0, Q6_K),
        Quant("q4_1", Q4_1, Q6_K),
        Quant("q5_0", Q5_0, Q6_K),
        Quant("q5_1", Q5_1, Q6_K),
        Quant("q4_k_m", Q4_K, Q6_K, better=Q6_K),
        Quant("q5_k_m", Q5_K, Q6_K, better=Q6_K),
        Quant("q6_k", Q6_K, Q6_K),
        Quant("q8_0", Q8_0, Q8_0),
        *(Quant(name.lower(), TYPE_BY_NAME[name], Q6_K) for name in _CODEBOOKS_AND_SIGNS),
        Quant("bf16", BF16, BF16),
        Quant("f16", F16, F16),
        Quant("f32", F32, F32),
    )
}
_HALF_BETTER: Final = ("attn_v", "attn_qkv", "ffn_down", "ffn_down_exps", "ffn_down_shexp")
_N_ORDINARY: Final = 151_643
_CONTROL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def random_model_bytes(shape: Shape, quant: str) -> int:
    """Bytes of the tensors of such a model."""
    return sum(plan.size_bytes for plan in _plans(shape, _quant(quant)))


def random_checkpoint(name: str, shape: Shape, quant: str) -> GgufCheckpoint:
    """Such a model as `open_checkpoint` would give it, but without its bytes: all weights are one and the same zero.

    For who asks for sizes. Raises BadRequest for a quantisation that there is not.
    """
    tensors = {}
    for plan in _plans(shape, _quant(quant)):
        data = (
            np.concatenate(list(plan.fill()))
            if len(plan.shape) == 1
            else np.broadcast_to(np.zeros((), np.uint8), (plan.size_bytes,))
        )
        tensors[plan.name] = StoredTensor(name=plan.name, type=plan.type, shape=plan.shape, data=data, source=name)
    return GgufCheckpoint(path=Path(name), version=3, metadata=_metadata(shape, quant), tensors=tensors, files=())


def write_random_model(
    path: Path,
    shape: Shape,
    quant: str,
    *,
    vocabulary: dict[str, MetadataValue] | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> None:
    """Write a model with random weights; `vocabulary` is `tokenizer.*` metadata (default: a made-up one).

    Raises BadRequest for a quantisation that there is not, StoreError where the disk has no room.
    """
    plans = _plans(shape, _quant(quant))
    needed, free = sum(plan.size_bytes for plan in plans), shutil.disk_usage(path.parent).free
    if needed > free:
        raise StoreError(
            f"{path.parent}: random weights of this shape need {needed / 2**30:.1f} GiB on disk, {free / 2**30:.1f} GiB are "
            "free: make room, point TMPDIR at another disk, or cut the model with --layers"
        )
    try:
        write_gguf(path, _metadata(shape, quant) | (vocabulary or made_up_vocabulary(shape.vocab_size)), plans, progress)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error


def _quant(name: str) -> Quant:
    if name not in QUANTS:
        raise BadRequest(f"quant is {name!r}; expected one of {', '.join(QUANTS)}", param="quant")
    return QUANTS[name]


def _metadata(shape: Shape, quant: str) -> dict[str, MetadataValue]:
    sizes: dict[str, MetadataValue] = {
        "block_count": shape.n_layers,
        "context_length": shape.max_context,
        "embedding_length": shape.d_model,
        "feed_forward_length": shape.d_ffn,
        "attention.head_count": shape.n_heads,
        "attention.head_count_kv": shape.n_kv_heads,
        "attention.key_length": shape.d_head,
        "attention.value_length": shape.d_head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": shape.rope_theta,
    }
    if shape.n_experts:
        sizes |= {"expert_count": shape.n_experts, "expert_used_count": shape.n_chosen}
        sizes |= {"expert_feed_forward_length": shape.d_expert}
    architecture = "qwen3moe" if shape.n_experts else "qwen3"
    if (net := shape.net) is not None:
        architecture = "qwen3next"
        sizes |= {
            "expert_shared_feed_forward_length": net.d_shared, "full_attention_interval": net.interval,
            "rope.dimension_count": net.d_rotary, "ssm.conv_kernel": net.n_taps, "ssm.group_count": net.n_key_heads,
            "ssm.state_size": net.d_key, "ssm.time_step_rank": net.n_value_heads, "ssm.inner_size": net.d_values,
        }  # fmt: skip
    named: dict[str, MetadataValue] = {"general.architecture": architecture, "general.name": f"random weights, {quant}"}
    return named | {f"{architecture}.{key}": value for key, value in sizes.items()}


def _plans(shape: Shape, quant: Quant) -> list[TensorPlan]:
    """Every tensor of the model, in the order of the file."""
    d = shape.d_model
    seeds, embedding = itertools.count(1), (shape.vocab_size, d)
    plans = [_matrix("token_embd", quant.head if shape.is_tied else quant.layers, embedding, next(seeds))]
    plans += [_ones("output_norm.weight", d)]
    if not shape.is_tied:
        plans.append(_matrix("output", quant.head, embedding, next(seeds)))
    for layer in range(shape.n_layers):
        is_net = shape.net is not None and (layer + 1) % shape.net.interval != 0
        matrices, norms = (_delta_net if is_net else _attention)(shape)
        matrices |= _feed_forward(shape)
        norms |= {"attn_norm": d, "ffn_norm" if shape.net is None else "post_attention_norm": d}
        plans += [_ones(f"blk.{layer}.{name}.weight", width) for name, width in norms.items()]
        if is_net:
            plans += _rates(f"blk.{layer}", shape, next(seeds))
        is_better = quant.better is not None and uses_more_bits(layer, shape.n_layers)
        for name, matrix in matrices.items():
            type_ = quant.better if is_better and name in _HALF_BETTER and quant.better else quant.layers
            plans.append(_matrix(f"blk.{layer}.{name}", type_, matrix, next(seeds)))
        if shape.n_experts:
            plans.append(_matrix(f"blk.{layer}.ffn_gate_inp", F32, (shape.n_experts, d), next(seeds)))
        if shape.net is not None:
            plans.append(_matrix(f"blk.{layer}.ffn_gate_inp_shexp", F32, (1, d), next(seeds)))
    return plans


_Matrices = dict[str, tuple[int, ...]]
_Norms = dict[str, int]


def _attention(shape: Shape) -> tuple[_Matrices, _Norms]:
    """Of a layer with keys and values; Qwen3-Next joins queries and gates."""
    d, d_query, d_key = shape.d_model, shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    d_gates = 0 if shape.net is None else d_query
    matrices = {
        "attn_q": (d_query + d_gates, d), "attn_k": (d_key, d), "attn_v": (d_key, d), "attn_output": (d, d_query),
    }  # fmt: skip
    return dict(matrices), {"attn_q_norm": shape.d_head, "attn_k_norm": shape.d_head}


def _delta_net(shape: Shape) -> tuple[_Matrices, _Norms]:
    """Of a layer with recurrent states."""
    d, net = shape.d_model, shape.net
    assert net is not None
    matrices = {
        "attn_qkv": (net.n_channels, d), "attn_gate": (net.d_values, d), "ssm_ba": (2 * net.n_value_heads, d),
        "ssm_out": (d, net.d_values),
    }  # fmt: skip
    return dict(matrices), {"ssm_norm": net.d_value}


def _feed_forward(shape: Shape) -> _Matrices:
    d, n_experts, d_expert, net = shape.d_model, shape.n_experts, shape.d_expert, shape.net
    if not n_experts:
        return {"ffn_gate": (shape.d_ffn, d), "ffn_up": (shape.d_ffn, d), "ffn_down": (d, shape.d_ffn)}
    wide, narrow = (n_experts, d_expert, d), (n_experts, d, d_expert)
    shared: _Matrices = {}
    if net is not None:
        shared = {"ffn_gate_shexp": (net.d_shared, d), "ffn_up_shexp": (net.d_shared, d), "ffn_down_shexp": (d, net.d_shared)}
    return {"ffn_gate_exps": wide, "ffn_up_exps": wide, "ffn_down_exps": narrow} | shared


def _rates(layer: str, shape: Shape, seed: int) -> list[TensorPlan]:
    """What a delta net has beside matrices: taps, and minus the rates and the biases of the value heads."""
    net = shape.net
    assert net is not None

    def minus_ones() -> tuple[NDArray[np.uint8]]:
        return (np.full(net.n_value_heads, -1, "<f4").view(np.uint8),)

    return [
        _matrix(f"{layer}.ssm_conv1d", F32, (net.n_channels, net.n_taps), seed),
        TensorPlan(name=f"{layer}.ssm_a", type=F32, shape=(net.n_value_heads,), fill=minus_ones),
        _ones(f"{layer}.ssm_dt.bias", net.n_value_heads),
    ]


def uses_more_bits(layer: int, n_layers: int) -> bool:
    """Whether the mixes `_M` keep this layer's sensitive matrices in the better type: the first and last eighth, and every
    third between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def _matrix(name: str, type_: TensorType, shape: tuple[int, ...], seed: int) -> TensorPlan:
    """A matrix, or those of all experts, which are made one by one."""

    def fill() -> Iterator[NDArray[np.uint8]]:
        for index in range(shape[0] if len(shape) == 3 else 1):
            yield random_blocks(type_, shape[-2] * shape[-1], shape[-1] ** -0.5, seed + (index << 32))

    return TensorPlan(name=f"{name}.weight", type=type_, shape=shape, fill=fill)


def _ones(name: str, width: int) -> TensorPlan:
    return TensorPlan(name=name, type=F32, shape=(width,), fill=lambda: (np.ones(width, "<f4").view(np.uint8),))


def made_up_vocabulary(vocab_size: int) -> dict[str, MetadataValue]:
    """Byte-level pairs in Qwen's way of cutting texts: the 256 bytes, then all short words of small letters, each a merge of
    the word less its last letter and that letter; control tokens, and unused ids up to `vocab_size`."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens, merges = list(_byte_symbols()), list[str]()
    n_ordinary = min(_N_ORDINARY, vocab_size - len(_CONTROL))
    words = ["\u0120", *letters]  # the symbol of a space, which begins most words
    while len(tokens) < n_ordinary:
        pairs = [(word, letter) for word in words for letter in letters][: n_ordinary - len(tokens)]
        words = [word + letter for word, letter in pairs]
        tokens += words
        merges += [f"{word} {letter}" for word, letter in pairs]
    n_unused = vocab_size - len(tokens) - len(_CONTROL)
    kinds = [1] * len(tokens) + [3] * len(_CONTROL) + [5] * n_unused
    tokens += [*_CONTROL, *(f"[PAD{n}]" for n in range(n_unused))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": list(kinds),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.eos_token_id": n_ordinary + 2,
        "tokenizer.ggml.padding_token_id": n_ordinary,
        "tokenizer.ggml.add_bos_token": False,
    }


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's table): itself where it is printable."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
