"""Which tensors a file holds, in which shapes and types, against its own config and what its quantisation is called."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from samovar.doctor.figures import Figures, figures_of
from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.quantisation_names import (
    PUBLISHED_SETTINGS,
    QUANTISATIONS,
    Quantisation,
    named_quantisation,
    stated_quantisation,
)
from samovar.doctor.releases import Release
from samovar.doctor.subject import Listed, Subject
from samovar.doctor.tied_head import EMBEDDINGS, HEADS, MOST_APART, head_distance
from samovar.models.gguf_config import folder_shape, gguf_tensor_name

SECTION: Final = "weights"
_FLOATS: Final = frozenset({"F32", "F16", "BF16"})
_AGAIN: Final = "quantise the model again, or get the file from its publisher"
_OPTIONAL: Final = frozenset({"rope_freqs.weight", "cls.output.weight", "cls.weight"})
_MAX_PARTS: Final = 1 << 17  # layers times experts; a damaged config may ask for any number
_LAYERED: Final = ("qwen3", "qwen3_moe", "qwen3_next", "qwen2", "llama")
_SPARSE: Final = ("qwen3_moe", "qwen3_next")
_LEFT_OUT: Final = "mtp."  # heads of Qwen3-Next that predict several tokens


def check_layout(subject: Subject, release: Release) -> list[Finding]:
    """The lines on tensors, output head, types of the file, routers and norms. Values are read of heads alone."""
    listed = subject.listed
    if not listed:
        return [unknown(SECTION, "tensors", "none could be listed; see the lines on the file")]
    lines = [_tensors(subject), _head(subject, release), _types(subject)]
    if subject.quantisation:
        lines.append(_settings(subject))
        heads = [n for n in HEADS if n in listed]
        lines.append(_floats(listed, "head in floats", heads, "each token would be chosen less exactly"))
    routers = [n for n in listed if n.endswith(("ffn_gate_inp.weight", "mlp.gate.weight"))]
    if routers or release.figures.get("num_experts"):
        lines.append(_floats(listed, "routers", routers, "experts would be chosen wrongly"))
    norms = [n for n in listed if "norm" in n or n.endswith(".bias")]
    return [*lines, _floats(listed, "norms and biases", norms, "every layer would be scaled wrongly")]


def _tensors(subject: Subject) -> Finding:
    """Each tensor that the config asks for, in its shape, and none beside."""
    what, figures = "tensors", figures_of(subject)
    expected = expected_tensors(figures, is_gguf=subject.is_gguf)
    if expected is None or any("experts.gate_up_proj" in name for name in subject.listed):
        return unknown(SECTION, what, f"{len(subject.listed):,}; which are expected of this architecture is not known here")
    listed = {name: entry.shape for name, entry in subject.listed.items() if not name.startswith(_LEFT_OUT)}
    found = {_plain(name): folder_shape(name, shape) for name, shape in listed.items()}
    missing = [n for n in expected if n not in found]
    shaped = [n for n in expected if n in found and found[n] != expected[n]]
    allowed = {*_OPTIONAL, *HEADS, *expected}
    others = [n for n in found if n not in allowed]
    if not missing and not shaped and not others:
        return passed(SECTION, what, f"all {len(found):,}, in the shapes of the config")
    detail = [f"{n}: missing" for n in missing[:2]]
    detail += [f"{n}: {list(found[n])}, expected {list(expected[n])}" for n in shaped[:2]]
    detail += [f"{n}: expected in no model of this kind" for n in others[:2]]
    counts = ((len(missing), "missing"), (len(shaped), "of another shape"), (len(others), "unexpected"))
    summary = ", ".join(f"{count:,} {how}" for count, how in counts if count)
    return failed(SECTION, what, summary, f"{len(expected):,} that fit the config", _AGAIN, detail)


def _plain(name: str) -> str:
    """Names of a bare decoder, as embedding models are saved, with the prefix that others have."""
    return f"model.{name}" if name.startswith(("layers.", "embed_tokens.", "norm.")) else name


def expected_tensors(figures: Figures, *, is_gguf: bool) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of all tensors but the head; None where the figures do not tell."""
    kind = figures.get("model_type")
    if kind not in _LAYERED:
        return None
    try:
        shapes = dict(_outer(figures))
        n_layers = _size(figures, "num_hidden_layers")
        if n_layers * (_size(figures, "num_experts") if "num_experts" in figures else 1) > _MAX_PARTS:
            return None
        for i in range(n_layers):
            for name, shape in _layer(figures, i, is_gguf=is_gguf):
                shapes[f"model.layers.{i}.{name}"] = shape
    except KeyError:
        return None
    return {gguf_tensor_name(n, str(kind)): s for n, s in shapes.items()} if is_gguf else shapes


def _size(figures: Figures, key: str) -> int:
    value = figures.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 24:
        raise KeyError(key)
    return value


def _outer(figures: Figures) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = _size(figures, "hidden_size")
    yield "model.embed_tokens.weight", (_size(figures, "vocab_size"), width)
    yield "model.norm.weight", (width,)


def _is_sparse(figures: Figures, layer: int) -> bool:
    """Whether this layer of a model with experts has some."""
    dense, step = figures.get("mlp_only_layers"), figures.get("decoder_sparse_step")
    is_on_step = not isinstance(step, int) or step < 1 or (layer + 1) % step == 0
    return is_on_step and not (isinstance(dense, list) and layer in dense)


def _layer(figures: Figures, index: int, *, is_gguf: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    kind, width = str(figures["model_type"]), _size(figures, "hidden_size")
    is_net = kind == "qwen3_next" and _is_net(figures, index)
    yield from _delta_net(figures, is_gguf=is_gguf) if is_net else _attention(figures)
    yield "input_layernorm.weight", (width,)
    yield "post_attention_layernorm.weight", (width,)
    if kind not in _SPARSE or not _is_sparse(figures, index):
        yield from _feed_forward("mlp", (), width, _size(figures, "intermediate_size"))
        return
    n_experts, d_ffn = _size(figures, "num_experts"), _size(figures, "moe_intermediate_size")
    yield "mlp.gate.weight", (n_experts, width)
    if kind == "qwen3_next":
        yield "mlp.shared_expert_gate.weight", (1, width)
        yield from _feed_forward("mlp.shared_expert", (), width, _size(figures, "shared_expert_intermediate_size"))
    if is_gguf:
        yield from _feed_forward("mlp.experts", (n_experts,), width, d_ffn)
        return
    for expert in range(n_experts):
        yield from _feed_forward(f"mlp.experts.{expert}", (), width, d_ffn)


def _is_net(figures: Figures, layer: int) -> bool:
    """Whether this layer of Qwen3-Next is a gated delta net, as the layers are listed or by their interval."""
    kinds = figures.get("layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        return bool(kinds[layer] == "linear_attention")
    return (layer + 1) % _size(figures, "full_attention_interval") != 0


def _delta_net(figures: Figures, *, is_gguf: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A gated delta net of Qwen3-Next, whose z GGUF files have apart."""
    width, n_heads, d_value = (
        _size(figures, key) for key in ("hidden_size", "linear_num_value_heads", "linear_value_head_dim")
    )
    d_values = n_heads * d_value
    n_channels = 2 * _size(figures, "linear_num_key_heads") * _size(figures, "linear_key_head_dim") + d_values
    joined = {"qkv": n_channels, "z": d_values} if is_gguf else {"qkvz": n_channels + d_values}
    for part, n_rows in {**joined, "ba": 2 * n_heads}.items():
        yield f"linear_attn.in_proj_{part}.weight", (n_rows, width)
    yield "linear_attn.conv1d.weight", (n_channels, 1, _size(figures, "linear_conv_kernel_dim"))
    yield "linear_attn.norm.weight", (d_value,)
    yield "linear_attn.out_proj.weight", (width, d_values)
    for part in ("dt_bias", "A_log"):
        yield f"linear_attn.{part}", (n_heads,)


def _attention(figures: Figures) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Qwen3-Next joins queries and gates."""
    kind = str(figures["model_type"])
    width, d_head = _size(figures, "hidden_size"), _size(figures, "head_dim")
    rows = {"q": _size(figures, "num_attention_heads") * d_head, "o": width}
    rows["k"] = rows["v"] = _size(figures, "num_key_value_heads") * d_head
    for part, n_rows in rows.items():
        n_joined = 2 if kind == "qwen3_next" and part == "q" else 1
        yield f"self_attn.{part}_proj.weight", (n_joined * n_rows, rows["q"] if part == "o" else width)
        if kind == "qwen2" and part != "o":
            yield f"self_attn.{part}_proj.bias", (n_rows,)
        if kind.startswith("qwen3") and part in "qk":
            yield f"self_attn.{part}_norm.weight", (d_head,)


def _feed_forward(prefix: str, before: tuple[int, ...], width: int, d_ffn: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("gate", "up"):
        yield f"{prefix}.{part}_proj.weight", (*before, d_ffn, width)
    yield f"{prefix}.down_proj.weight", (*before, width, d_ffn)


def _head(subject: Subject, release: Release) -> Finding:
    what = "output head"
    head = next((subject.listed[name] for name in HEADS if name in subject.listed), None)
    is_tied = bool(release.figures["tie_word_embeddings"])
    if head is not None and is_tied:
        distance = None if "tie_word_embeddings" in release.unverified else head_distance(subject)
        return _copied_head(distance, f"stored apart as {head.type}")
    if head is not None:
        return passed(SECTION, what, head.type)
    if is_tied or release.kind in ("embedding", "reranker"):
        return passed(SECTION, what, "that of the embedding" if is_tied else "none, and none is needed")
    advice = f"the embedding would stand in for it, and answers be nonsense: {_AGAIN}"
    return failed(SECTION, what, "missing", "a head of its own", advice)


def _copied_head(distance: float | None, found: str) -> Finding:
    """A head that is stored beside the embedding that it is tied to; `distance` is None where that is not known."""
    if distance is None:
        return passed(SECTION, "output head", f"{found}, as copies of tied heads may be")
    if distance <= MOST_APART:
        return passed(SECTION, "output head", f"{found}, a copy of the embedding ({distance:.1%} apart)")
    found = f"{found}, and no copy of the embedding ({distance:.0%} apart)"
    return failed(SECTION, "output head", found, "a copy: the release's head is tied", "these are not the release's weights")


def _floats(listed: Mapping[str, Listed], what: str, names: list[str], harm: str) -> Finding:
    wrong = [n for n in names if listed[n].type not in _FLOATS]
    if not wrong:
        kinds = Counter(listed[n].type for n in names)
        return passed(SECTION, what, ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none")
    shown = [f"{n}: {listed[n].type}" for n in wrong[:3]]
    return failed(SECTION, what, f"{len(wrong)} are quantised", "F32, F16 or BF16", f"{harm}: {_AGAIN}", shown)


def _types(subject: Subject) -> Finding:
    """What the quantisation is called, against the types of the matrices."""
    what = "quantisation"
    stated, where = stated_quantisation(subject)
    named = named_quantisation(subject, is_stated=bool(stated))
    matrices = {n: t for n, t in subject.listed.items() if len(t.shape) > 1 and t.type not in ("I32", "I64")}
    shares = _shares(matrices)
    mix = ", ".join(f"{kind} {share:.0%}" for kind, share in list(shares.items())[:4])
    if subject.quantisation:
        if named and named not in stated.lower():
            return failed(
                SECTION, what, f"{where} says {stated}, the name {named}", "one", f"{_AGAIN}: one of the two is wrong"
            )
        return passed(SECTION, what, f"{stated}: {mix}")
    if stated and named and stated != named:
        return failed(SECTION, what, f"{where} says {stated}, the name {named}", "one", f"{_AGAIN}: one of the two is wrong")
    called = stated or named
    known = QUANTISATIONS.get(called)
    if known is None:
        return unknown(SECTION, what, f"{called or 'nothing says what it is called'}; it holds {mix}")
    if problem := _problem(known, matrices, shares):
        return failed(SECTION, what, f"called {called}, {problem}; it holds {mix}", known.expected, _AGAIN)
    return passed(SECTION, what, f"{called}: {mix}")


def _settings(subject: Subject) -> Finding:
    """The settings of a quantised folder beside those of the publisher's own."""
    what, found = "settings", subject.quantisation_config
    wanted = PUBLISHED_SETTINGS.get(str(found.get("quant_method")).lower())
    if wanted is None:
        return unknown(SECTION, what, f"{found.get('quant_method')}, by which no release is published")
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    if not differing:
        return passed(SECTION, what, "as the publisher quantises")
    return unknown(
        SECTION,
        what,
        ", ".join(f"{key} {found.get(key)}" for key in differing),
        expected=", ".join(f"{key} {wanted[key]}" for key in differing),
        advice="the publisher's own files have other settings; so somebody else has quantised this one",
    )


def _shares(matrices: Mapping[str, Listed]) -> dict[str, float]:
    """How much of the layers' values each type holds, from 0 to 1; the largest first."""
    counts: Counter[str] = Counter()
    for name, entry in matrices.items():
        if name not in HEADS + EMBEDDINGS:
            counts[entry.type] += math.prod(entry.shape)
    total = counts.total() or 1
    return {kind: count / total for kind, count in counts.most_common()}


def _problem(known: Quantisation, matrices: Mapping[str, Listed], shares: Mapping[str, float]) -> str:
    """What speaks against the name; empty where nothing does."""
    main = next(iter(shares), "")
    narrow = any(entry.shape[-1] % 256 for entry in matrices.values())
    usual = {*known.main, *(known.narrow if narrow else ())}
    if main not in usual:
        return f"but most values are {main}"
    lower = [n for n, entry in matrices.items() if 0 < entry.bits < known.min_bits and entry.type not in usual]
    return f"but {lower[0]} is {matrices[lower[0]].type}" if lower else ""
