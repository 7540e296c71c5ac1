"""Which of the tiny checkpoints are converted by the quick tests."""

from collections.abc import Iterable

import pytest

_QUICK = ("qwen3-tied-8-to-1", "qwen3-moe", "llama-biased", "gemma3", "phi3-partial", "llama3", "qwen3-next")


def quickly(names: Iterable[str]) -> list[object]:
    """Parameters for all of `names`, most of them left to the whole run."""
    return [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]
