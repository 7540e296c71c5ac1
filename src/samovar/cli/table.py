"""Rows of text in columns."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, flush_left: Sequence[int] = (0,)) -> str:
    """Columns two spaces apart, flush right but for those at `flush_left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index in flush_left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def size_text(n_bytes: int) -> str:
    """A size as people say it, in powers of ten, as hubs and disks count."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}" if n_bytes < 100 * size else f"{n_bytes / size:.0f} {unit}"
    return f"{n_bytes} B"
