"""Which of the tiny checkpoints are converted by the quick tests."""

from collections.abc import Iterable

from tests.matrices import slow_but

_QUICK = ("qwen3-tied-8-to-1", "qwen3-moe", "gemma3", "qwen3-next")


def quickly(names: Iterable[str]) -> list[object]:
    """Parameters for all of `names`, most of them left to the whole run."""
    return slow_but(_QUICK, names)
