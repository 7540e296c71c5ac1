"""The table of `samovar plan`: plain lines, as many columns as there is room for, and none of them cut."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from samovar.cli.table import table
from samovar.cli.terminal import one_line
from samovar.plan.outlook import PROMPT_TOKENS, Outlook, Wish


@dataclass(frozen=True, slots=True)
class _Column:
    """A heading of two lines, and what stands below it. Where room is short the highest `rank` is left out first; 0 stays."""

    heading: tuple[str, str]
    cell: Callable[[Outlook], str]
    rank: int = 0


def plan_lines(outlooks: Sequence[Outlook], wish: Wish, width: int | None) -> list[tuple[str, Outlook | None]]:
    """Lines, each with the candidate that it is about: two of headings, then one a candidate, an empty one after each model.

    Models of which nothing fits have one line for the smallest. `width` None is as wide as it takes.
    """
    shown = [outlook for outlook in outlooks if _is_shown(outlook, outlooks)]
    columns = _columns(wish)
    lines = _laid_out(shown, columns)
    while width is not None and max(map(len, lines)) > width and (rank := max(column.rank for column in columns)):
        columns = [column for column in columns if column.rank != rank]
        lines = _laid_out(shown, columns)
    found: list[tuple[str, Outlook | None]] = [(line, None) for line in lines[:2]]
    for line, outlook, after in zip(lines[2:], shown, [*shown[1:], None], strict=True):
        found.append((line, outlook))
        if after is not None and after.model != outlook.model:
            found.append(("", None))
    return found


def _laid_out(shown: Sequence[Outlook], columns: Sequence[_Column]) -> list[str]:
    headings = [[column.heading[line] for column in columns] for line in range(2)]
    rows = [[column.cell(outlook) for column in columns] for outlook in shown]
    return table([*headings, *rows], flush_left=(0, 1)).split("\n")


def _columns(wish: Wish) -> list[_Column]:
    together = _Column((f"{wish.n_users} users", "together"), lambda outlook: _rate(outlook.decode_users))
    return [
        _Column(("", "model"), lambda outlook: one_line(outlook.model)),
        _Column(("", "quant"), lambda outlook: outlook.quant),
        _Column(("bits a", "weight"), lambda outlook: f"{outlook.bits_per_weight:.2f}", rank=4),
        _Column(("weights", "GiB"), lambda outlook: _gib(outlook.weight_bytes), rank=3),
        _Column(("memory", "GiB"), lambda outlook: _gib(outlook.memory_bytes)),
        _Column(("lacks", "GiB"), _lacks),
        _Column(("longest", "context"), lambda outlook: f"{outlook.most_context:,}" if outlook.most_context else "-"),
        _Column(("decode", "first"), lambda outlook: _rate(outlook.decode), rank=2),
        _Column(("decode", f"{wish.context:,}"), lambda outlook: _rate(outlook.decode_full)),
        *([together] if wish.n_users > 1 else []),
        _Column(("prompt", f"{PROMPT_TOKENS}"), lambda outlook: _rate(outlook.prefill), rank=1),
    ]


def _is_shown(outlook: Outlook, outlooks: Sequence[Outlook]) -> bool:
    """Of a model whose weights never fit, the smallest alone."""
    of_model = [other for other in outlooks if other.model == outlook.model]
    if any(other.most_context for other in of_model):
        return True
    return outlook is min(of_model, key=lambda other: other.memory_bytes)


def _lacks(outlook: Outlook) -> str:
    """What is missing, rounded up, so that it is never 0."""
    if outlook.is_too_long:
        return "too long"
    return f"{math.ceil(outlook.missing_bytes / 2**30 * 10) / 10:.1f}" if outlook.missing_bytes else "fits"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f}"


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.3g}" if tokens_per_s < 999.5 else f"{tokens_per_s:,.0f}"
