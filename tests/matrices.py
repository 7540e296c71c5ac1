"""Parameters that are all tried in the full run, and of which the quick one takes representatives."""

from collections.abc import Container, Iterable

import pytest


def slow_but(quick: Container[object], values: Iterable[object]) -> list[object]:
    """The values; those that are not among `quick` are marked slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
