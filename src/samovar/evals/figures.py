"""Figures of a quality as text: the same digits and units in the table and in the chart."""

from samovar.evals.quality import Quality


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share that is given in percent."""
    return f"{value:.1f}"


def about_model(quality: Quality) -> str:
    """Its size, bits a weight, and the type of its keys and values."""
    n_bytes = quality.packed_bytes
    size = f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 1 << 30 else f"{n_bytes / 2**20:.0f} MiB"
    return f"{size}, {quality.bits_per_weight:.2f} bits, kv {quality.kv_type}"
