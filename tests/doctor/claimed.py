"""Models in memory that claim to be a release, at its real sizes: sound ones, for tests to put single faults into.

Headers are whole; of the weights a few small ones are there to be read.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from gguf.quants import quantize

from samovar.doctor.check_layout import _expected
from samovar.doctor.check_tokenizer import OpenTokenizer, open_tokenizer
from samovar.doctor.examine import Report, examine_subject
from samovar.doctor.finding import Status
from samovar.doctor.release_names import find_release
from samovar.doctor.releases import RELEASES, Release
from samovar.doctor.subject import Listed, Subject
from samovar.tensors.dtypes import TYPE_BY_NAME, TensorType
from samovar.tensors.stored import StoredTensor
from tests.models.tiny_gguf import TYPES
from tests.text.witnesses import qwen3_as_gguf, qwen3_json, template

FILE_TYPES = {"Q8_0": 7, "BF16": 32}
_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
TEMPLATES = {
    "qwen3": "qwen3",
    "qwen3-instruct-2507": "qwen3_instruct_2507",
    "qwen2.5": "qwen2_5",
    None: "qwen3",
}


def release(name: str) -> Release:
    found = find_release(name, RELEASES)
    assert found is not None, name
    return found


@cache
def vocabulary() -> Mapping[str, object]:
    return qwen3_as_gguf()


def gguf_model(name: str, *, kind: str = "Q8_0", file_name: str | None = None) -> Subject:
    """A sound GGUF file of a Qwen3 release."""
    claimed = release(name)
    architecture = {"qwen3": "qwen3", "qwen3_moe": "qwen3moe"}[str(claimed.figures["model_type"])]
    metadata = {
        "general.architecture": architecture,
        "general.name": name.replace("-", " "),
        "general.file_type": FILE_TYPES[kind],
        **{f"{architecture}.{key}": claimed.figures[ours] for ours, key in _KEYS.items() if ours in claimed.figures},
        **vocabulary(),
        "tokenizer.ggml.eos_token_id": claimed.stop_ids[0],
    }
    metadata["qwen3.attention.layer_norm_rms_epsilon" if architecture == "qwen3" else "unread"] = float(np.float32(1e-6))
    if claimed.kind == "embedding":
        metadata["tokenizer.ggml.add_eos_token"] = True
    subject = Subject(
        path=Path(file_name or f"{name}-{kind}.gguf"),
        is_gguf=True,
        names=(("general.name", str(metadata["general.name"])), ("the file's name", file_name or f"{name}-{kind}.gguf")),
        metadata=metadata,
        config={},
        generation_config={},
        tokenizer_config={},
        tokenizer_json=None,
        template=template(TEMPLATES[claimed.template]),
        tensors={n: stored(n, kind) for n in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight")},
        listed={},
        files=(),
    )
    return replace(subject, listed=listing(subject, claimed, kind))


def folder_model(name: str) -> Subject:
    """A sound Hugging Face folder of a dense Qwen3 release, in BF16."""
    claimed = release(name)
    config = dict(claimed.figures) | {"torch_dtype": "bfloat16", "eos_token_id": 151645, "use_sliding_window": False}
    subject = Subject(
        path=Path(name),
        is_gguf=False,
        names=(("the folder's name", name),),
        metadata={},
        config=config,
        generation_config={"eos_token_id": [151645, 151643], "temperature": 0.6},
        tokenizer_config={"eos_token": "<|im_end|>"},
        tokenizer_json=qwen3_json(),
        template=template(TEMPLATES[claimed.template]),
        tensors={"model.layers.0.self_attn.q_proj.weight": stored("model.layers.0.self_attn.q_proj.weight", "BF16")},
        listed={},
        files=(),
    )
    return replace(subject, listed=listing(subject, claimed, "BF16"))


def listing(subject: Subject, claimed: Release, kind: str) -> dict[str, Listed]:
    """All tensors of a release, matrices in one type, the rest in floats."""
    shapes = _expected(claimed.figures, subject)
    assert shapes is not None
    if not claimed.figures["tie_word_embeddings"]:
        head = "output.weight" if subject.is_gguf else "lm_head.weight"
        shapes |= {head: next(iter(shapes.values()))}
    plain = "F32" if subject.is_gguf else "BF16"
    listed = {}
    for name, shape in shapes.items():
        stays = len(shape) == 1 or name.endswith(("ffn_gate_inp.weight", "mlp.gate.weight"))
        found = TYPE_BY_NAME[plain if stays else kind]
        listed[name] = Listed(type=found.name, shape=shape, bits=found.bits_per_weight)
    return listed


def stored(name: str, kind: str, *, n_rows: int = 512) -> StoredTensor:
    """A small matrix of random values in one of GGUF's types."""
    values = np.random.default_rng(7).normal(0, 0.02, (n_rows, 256)).astype(np.float32)
    data = np.ascontiguousarray(quantize(values, TYPES[kind])).view(np.uint8).reshape(-1)
    return with_data(name, TYPE_BY_NAME[kind], (n_rows, 256), data)


def with_data(name: str, kind: TensorType, shape: tuple[int, ...], data: np.ndarray) -> StoredTensor:
    return StoredTensor(name=name, type=kind, shape=shape, data=data, source="in memory")


def with_metadata(subject: Subject, **changes: object) -> Subject:
    """The subject with some keys set (dots as `__`), or taken away by None."""
    metadata = {**subject.metadata, **{key.replace("__", "."): value for key, value in changes.items()}}
    return replace(subject, metadata={key: value for key, value in metadata.items() if value is not None})


def with_listed(subject: Subject, name: str, **changes: object) -> Subject:
    return replace(subject, listed={**subject.listed, name: replace(subject.listed[name], **changes)})


def no_model() -> object:
    raise AssertionError("a chat model is not to be opened")


_OPENED: dict[tuple[object, ...], OpenTokenizer] = {}


def opened_once(subject: Subject) -> OpenTokenizer:
    """The tokenizer; that of the same metadata is built once for all tests."""
    parts = {k: id(v) if isinstance(v, list) else v for k, v in subject.metadata.items() if k.startswith("tokenizer.ggml")}
    key = (subject.tokenizer_json, *sorted(parts.items()))
    if key not in _OPENED:
        _OPENED[key] = open_tokenizer(subject)
    return _OPENED[key]


def report_on(subject: Subject, *, open_model: Callable[[], object] = no_model, asked: str | None = None) -> Report:
    return examine_subject(subject, open_model=open_model, asked=asked, open_tokenizer=opened_once)


def lines(report: Report, status: Status) -> set[str]:
    """What ended so, as "section: what"."""
    return {f"{f.section}: {f.what}" for f in report.findings if f.status is status}


def failing(subject: Subject) -> set[str]:
    return lines(report_on(subject), Status.FAIL)
