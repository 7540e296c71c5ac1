"""The published releases: sizes, rotation, context, tokenizer, template, stop ids. Data alone.

Source: the public config.json, generation_config.json and tokenizer files of each release. Figures carry the keys of a
config.json. What was not seen at its source is named in `unverified`: a difference there settles nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["chat", "base", "embedding", "reranker"]
Figures = Mapping[str, object]

STOP_IDS: Final = "stop ids"  # of `unverified`, beside the names of figures and the next
TEMPLATE: Final = "template"
_THETA: Final = 1_000_000.0
_LONG: Final = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One published model. `template` is a key of `known_templates`, `tokenizer` one of `token_tables`.

    `aliases` are other names that files of it bear; `files` are the sha256 of whole files that are known to be sound, with
    their sizes in bytes; `similarities` are published cosine similarities, see `self_test`; `sampling` has the defaults of a
    generation_config.json.
    """

    name: str
    kind: Kind
    figures: Figures
    tokenizer: str
    template: str | None
    stop_ids: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    unverified: frozenset[str] = frozenset()
    files: Mapping[str, int] = field(default_factory=dict)
    similarities: tuple[tuple[float, ...], ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)


def _dense(layers: int, width: int, heads: int, kv_heads: int, ffn: int, *, tied: bool) -> dict[str, object]:
    return {
        "model_type": "qwen3",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "intermediate_size": ffn,
        "vocab_size": 151_936,
        "tie_word_embeddings": tied,
        "rope_theta": _THETA,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40_960,
    }


def _sparse(layers: int, width: int, heads: int, ffn: int, experts: int = 128) -> dict[str, object]:
    figures = _dense(layers, width, heads, 8 if experts == 160 else 4, 0, tied=False)
    del figures["intermediate_size"]  # of dense layers, which there are none of
    return figures | {
        "model_type": "qwen3_moe",
        "num_experts": experts,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": ffn,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


_DENSE: Final[Mapping[str, Figures]] = {
    "0.6B": _dense(28, 1024, 16, 8, 3072, tied=True),
    "1.7B": _dense(28, 2048, 16, 8, 6144, tied=True),
    "4B": _dense(36, 2560, 32, 8, 9728, tied=True),
    "8B": _dense(36, 4096, 32, 8, 12288, tied=False),
    "14B": _dense(40, 5120, 40, 8, 17408, tied=False),
    "32B": _dense(64, 5120, 64, 8, 25600, tied=False),
}
_SPARSE: Final[Mapping[str, Figures]] = {
    "30B-A3B": _sparse(48, 2048, 32, 768),
    "235B-A22B": _sparse(94, 4096, 64, 1536),
}
_SIZES: Final[Mapping[str, Figures]] = {**_DENSE, **_SPARSE}
_2507: Final[Mapping[str, float]] = {"4B": 5e6, "30B-A3B": 1e7, "235B-A22B": 5e6}
_NEXT: Final[Figures] = {
    **_sparse(48, 2048, 16, 512),
    "model_type": "qwen3_next",
    "num_key_value_heads": 2,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "shared_expert_intermediate_size": 512,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "rope_theta": 1e7,
    "max_position_embeddings": _LONG,
}
_UNSEEN: Final = (
    "vocab_size",
    "rms_norm_eps",
    "tie_word_embeddings",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
)
_NEXT_UNVERIFIED: Final = frozenset({*_UNSEEN, TEMPLATE})
_PLAIN_SAMPLING: Final = {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
_THOUGHTFUL: Final = {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
_SAMPLING: Final = {"qwen3": _THOUGHTFUL, "qwen3-thinking-2507": _THOUGHTFUL}
_CHAT_STOPS: Final = (151_645, 151_643)


def _qwen3(name: str, figures: Figures, template: str, unverified: frozenset[str] = frozenset()) -> Release:
    """A release that answers in turns."""
    return Release(
        name=name,
        kind="chat",
        figures=figures,
        tokenizer="qwen3",
        template=template,
        stop_ids=_CHAT_STOPS,
        unverified=unverified if template == "qwen3" else unverified | {"sampling"},
        sampling=_SAMPLING.get(template, _PLAIN_SAMPLING),
    )


def _base(name: str, figures: Figures) -> Release:
    return Release(
        name=name,
        kind="base",
        figures={**figures, "max_position_embeddings": 32_768},
        tokenizer="qwen3",
        template=None,
        stop_ids=(151_643,),
        unverified=frozenset({STOP_IDS}),
    )


def _scoring(size: str, kind: Literal["embedding", "reranker"]) -> Release:
    is_embedding = kind == "embedding"
    return Release(
        name=f"Qwen3-{kind.capitalize()}-{size}",
        kind=kind,
        figures={**_DENSE[size], "max_position_embeddings": 32_768},
        tokenizer="qwen3",
        template=None,
        stop_ids=(151_643,) if is_embedding else (151_645,),
        unverified=frozenset(
            {"vocab_size", "max_position_embeddings", "tie_word_embeddings", *(() if is_embedding else (STOP_IDS,))}
        ),
        similarities=((0.7646, 0.1414), (0.1355, 0.6000)) if is_embedding and size == "0.6B" else (),
    )


def _qwen2_5_coder(size: str, layers: int, width: int, heads: int, ffn: int, sha256: str, size_bytes: int) -> Release:
    figures = _dense(layers, width, heads, 2, ffn, tied=True)
    return Release(
        name=f"Qwen2.5-Coder-{size}-Instruct",
        kind="chat",
        figures=figures | {"model_type": "qwen2", "head_dim": width // heads, "max_position_embeddings": 32_768},
        tokenizer="qwen2.5",
        template="qwen2.5",
        stop_ids=_CHAT_STOPS,
        aliases=(f"qwen2.5-coder-{size}",),
        files={sha256: size_bytes},
    )


_SMOLLM2: Final = Release(
    name="SmolLM2-135M-Instruct",
    kind="chat",
    figures=_dense(30, 576, 9, 3, 1536, tied=True)
    | {
        "model_type": "llama",
        "head_dim": 64,
        "vocab_size": 49_152,
        "rope_theta": 1e5,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
    },
    tokenizer="smollm2",
    template="smollm2",
    stop_ids=(2,),
    aliases=("smollm2-135m-8k-lc100k-mix1-ep2", "smollm2-135m"),
    files={"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53": 98_362_432},
)

_LATER: Final[Mapping[str, Figures]] = {
    size: {**_SIZES[size], "rope_theta": theta, "max_position_embeddings": _LONG} for size, theta in _2507.items()
}
_CODERS: Final[Mapping[str, Figures]] = {
    "30B-A3B": _LATER["30B-A3B"],
    "480B-A35B": {**_sparse(62, 6144, 96, 2560, 160), "rope_theta": 1e7, "max_position_embeddings": _LONG},
}

RELEASES: Final[tuple[Release, ...]] = (
    *(_qwen3(f"Qwen3-{size}", figures, "qwen3") for size, figures in _SIZES.items()),
    *(_base(f"Qwen3-{size}-Base", _SIZES[size]) for size in ("0.6B", "1.7B", "4B", "8B", "14B", "30B-A3B")),
    *(_qwen3(f"Qwen3-{size}-Instruct-2507", figures, "qwen3-instruct-2507") for size, figures in _LATER.items()),
    *(_qwen3(f"Qwen3-{size}-Thinking-2507", figures, "qwen3-thinking-2507") for size, figures in _LATER.items()),
    *(_qwen3(f"Qwen3-Coder-{size}-Instruct", figures, "qwen3-coder") for size, figures in _CODERS.items()),
    _qwen3("Qwen3-Next-80B-A3B-Instruct", _NEXT, "qwen3-instruct-2507", unverified=_NEXT_UNVERIFIED),
    _qwen3("Qwen3-Next-80B-A3B-Thinking", _NEXT, "qwen3-thinking-2507", unverified=_NEXT_UNVERIFIED),
    *(_scoring(size, "embedding") for size in ("0.6B", "4B", "8B")),
    *(_scoring(size, "reranker") for size in ("0.6B", "4B", "8B")),
    _qwen2_5_coder("0.5B", 24, 896, 14, 4864, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", 491_400_064),
    _qwen2_5_coder(
        "1.5B", 28, 1536, 12, 8960, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", 1_117_320_768
    ),
    _SMOLLM2,
)
