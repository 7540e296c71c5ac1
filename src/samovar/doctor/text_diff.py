"""Where two texts part, in a few lines for a terminal."""

from typing import Final

_WIDTH: Final = 72  # characters shown of a line
_BEFORE: Final = 24  # of those, before the difference


def short_diff(expected: str, found: str) -> list[str]:
    """The line before the first difference, and the two lines that differ, with control characters spelled out."""
    same = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found)))
    start = expected.rfind("\n", 0, same) + 1
    before = expected[:start].splitlines()
    return [
        *([f"  {_cut(before[-1], 0)}"] if before else []),
        f"- {_line(expected, start, same)}",
        f"+ {_line(found, start, same)}",
        f"  (- expected, + found; line {expected.count(chr(10), 0, start) + 1})",
    ]


def _line(text: str, start: int, same: int) -> str:
    """The line of `text` that begins at `start`, with its line feed, around the character at `same`."""
    if start >= len(text):
        return "(the end)"
    end = text.find("\n", same)
    return _cut(text[start : len(text) if end < 0 else end + 1], max(0, same - start - _BEFORE))


def _cut(line: str, first: int) -> str:
    shown = line[first : first + _WIDTH]
    spelled = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return ("..." if first else "") + spelled + ("..." if len(line) > first + _WIDTH else "")
