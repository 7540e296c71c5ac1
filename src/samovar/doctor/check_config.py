"""A file's figures against the published ones, one line each."""

import math
from typing import Final

from samovar.doctor.figures import figures_of, rope_scaling_of
from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.releases import Release
from samovar.doctor.subject import Subject
from samovar.doctor.tied_head import HEADS

SECTION: Final = "config"

TITLES: Final = {
    "model_type": "architecture",
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "query heads",
    "num_key_value_heads": "key/value heads",
    "head_dim": "head width",
    "intermediate_size": "feed-forward width",
    "vocab_size": "vocabulary rows",
    "tie_word_embeddings": "tied head",
    "rope_theta": "rope base",
    "rms_norm_eps": "norm epsilon",
    "max_position_embeddings": "context",
    "num_experts": "experts",
    "num_experts_per_tok": "experts per token",
    "moe_intermediate_size": "expert width",
    "norm_topk_prob": "expert weights sum to 1",
    "decoder_sparse_step": "experts in layers, every",
    "mlp_only_layers": "layers without experts",
    "partial_rotary_factor": "rotated share of heads",
    "shared_expert_intermediate_size": "shared expert width",
    "full_attention_interval": "full attention every",
    "linear_conv_kernel_dim": "convolution kernel",
    "linear_num_key_heads": "linear key heads",
    "linear_num_value_heads": "linear value heads",
    "linear_key_head_dim": "linear key width",
    "linear_value_head_dim": "linear value width",
}
# What GGUF has no key for: it follows from the tensors, or from the architecture.
_UNSAID_BY_GGUF: Final = frozenset({"tie_word_embeddings", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"})
_ADVICE: Final = {
    "rope_theta": "positions would be wrong, worse with each thousand tokens: convert it again from the original config",
    "max_position_embeddings": "prompts would be cut or refused too early, or run past what the model was trained for; "
    "longer contexts are for YaRN, per request, and not for the config",
    "vocab_size": "rows were cut off or added, by a resize of the embedding most often: get the original file",
    "rms_norm_eps": "each layer would compute slightly wrong: convert it again from the original config",
    "norm_topk_prob": "each sparse layer would be scaled wrongly: convert it again from the original config",
}
_POOLING_NAMES: Final = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama.cpp's enum llama_pooling_type
_POOLING: Final = {"embedding": (3, "last"), "reranker": (4, "rank")}
_GGUF_SAMPLING: Final = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p"}
_DEFAULT_ADVICE: Final = "these are not the release's weights, or the config was edited: get the file again from its publisher"


def check_config(subject: Subject, release: Release) -> list[Finding]:
    """A line for each published figure, and one for the stretching of positions."""
    figures = figures_of(subject)
    if not figures.keys() & TITLES.keys() - {"model_type"}:
        return [unknown(SECTION, "figures", "none could be read", advice="see the lines on the file")]
    lines = [
        _line(subject, release, key, figures.get(key))
        for key in release.figures
        if figures.get(key) is not None or not (subject.is_gguf and key in _UNSAID_BY_GGUF)
    ]
    return [*lines, _scaling(subject), *_sliding(subject), *_pooling(subject, release), *_sampling(subject, release)]


def _line(subject: Subject, release: Release, key: str, found: object) -> Finding:
    title, expected = TITLES[key], release.figures[key]
    if found is None:
        return unknown(SECTION, title, "the file does not say", expected=_show(expected))
    if _same(found, expected):
        return passed(SECTION, title, _show(found))
    if key == "tie_word_embeddings" and found is False and any(name in subject.listed for name in HEADS):
        return passed(SECTION, title, "no, since the head is stored apart: see the line on it")
    if key in release.unverified:
        return unknown(
            SECTION, title, _show(found), expected=_show(expected), advice="the published figure is not known for certain here"
        )
    where = "" if subject.is_gguf else f" ({key} in config.json)"
    return failed(SECTION, title, _show(found), _show(expected) + where, _ADVICE.get(key, _DEFAULT_ADVICE))


def _same(found: object, expected: object) -> bool:
    if isinstance(expected, bool) or not isinstance(expected, int | float):
        return found == expected
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    # GGUF holds fractions as 32-bit floats
    return is_number and math.isclose(float(str(found)), expected, rel_tol=1e-6)


def _show(value: object) -> str:
    if value == []:
        return "none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value) if not isinstance(value, bool) else "yes" if value else "no"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.6g}"
    return f"{value:,.0f}"


def _scaling(subject: Subject) -> Finding:
    found = rope_scaling_of(subject)
    if found is None:
        return passed(SECTION, "rope scaling", "none")
    return failed(
        SECTION,
        "rope scaling",
        found,
        "none",
        "fixed scaling makes answers to short prompts worse: take it out of the file, and let it be turned on by need",
    )


def _pooling(subject: Subject, release: Release) -> list[Finding]:
    """What a GGUF file says of making one vector or score of a text; other engines than this one go by it."""
    if release.kind not in _POOLING or not subject.is_gguf:
        return []
    number, name = _POOLING[release.kind]
    found = subject.metadata.get(f"{subject.metadata.get('general.architecture')}.pooling_type")
    if found == number:
        return [passed(SECTION, "pooling", name)]
    if found is None:
        advice = "llama.cpp has to be told: --pooling last, or rank"
        return [unknown(SECTION, "pooling", "the file does not say", expected=name, advice=advice)]
    shown = _POOLING_NAMES.get(found, str(found)) if isinstance(found, int) else str(found)
    return [failed(SECTION, "pooling", shown, name, "vectors would be made of the wrong states: convert the model again")]


def _sampling(subject: Subject, release: Release) -> list[Finding]:
    """The sampling defaults that the file carries, if it carries some."""
    stated = subject.generation_config
    if subject.is_gguf:
        stated = {ours: subject.metadata.get(f"general.sampling.{theirs}") for ours, theirs in _GGUF_SAMPLING.items()}
    found = {key: stated[key] for key in release.sampling if stated.get(key) is not None}
    if not found:
        return []
    shown = ", ".join(f"{key} {value}" for key, value in found.items())
    wrong = {key for key, value in found.items() if not _same(value, release.sampling[key])}
    if not wrong:
        return [passed(SECTION, "sampling", shown)]
    expected = ", ".join(f"{key} {value:g}" for key, value in release.sampling.items())
    if "sampling" in release.unverified:
        advice = "these are the values that the publisher advises; those in its files are not known for certain here"
        return [unknown(SECTION, "sampling", shown, expected=expected, advice=advice)]
    return [failed(SECTION, "sampling", shown, expected, "answers would be sampled in another way than advised: set them back")]


def _sliding(subject: Subject) -> list[Finding]:
    """Every release attends to the whole context."""
    if subject.is_gguf:
        window = subject.metadata.get(f"{subject.metadata.get('general.architecture')}.attention.sliding_window")
    else:
        window = subject.config.get("sliding_window") if subject.config.get("use_sliding_window") else None
    if not window:
        return []
    advice = "far text would be out of sight: remove it from the config"
    return [failed(SECTION, "sliding window", _show(window), "none", advice)]
