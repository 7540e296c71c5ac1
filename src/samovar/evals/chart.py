"""Qualities of several models as one picture: a row a model, a panel a figure, a line from end to end of each interval.

Drawn by matplotlib, which is an extra of the package (`samovar[chart]`): it is asked for when a picture is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samovar.errors import BadRequest, SamovarError, StoreError
from samovar.evals.figures import about_model, figure, percent
from samovar.evals.interval import Estimate
from samovar.evals.quality import Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES: Final = (".svg", ".png")
_LOG_FROM: Final = 8  # times the smallest value, the largest: below, a plain axis is easier to read
_ALL: Final = 100  # percent
_MOST_LETTERS: Final = 36  # of a name; longer ones are shown by both ends
_INK, _GREY, _BLUE = "#222222", "#d0d0d0", "#2563a8"


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    note: str
    values: list[Estimate]
    is_log: bool = False
    form: Callable[[float], str] = figure


def check_chart(path: Path) -> None:
    """What can be known before anything is measured. Raises BadRequest for another kind of picture, SamovarError where
    matplotlib is missing, StoreError for a folder that is not there."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadRequest(f"chart is {str(path)!r}; expected a name that ends in {' or '.join(SUFFIXES)}", param="chart")
    if not path.absolute().parent.is_dir():
        raise StoreError(f"{path}: there is no folder {path.parent}; make it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise SamovarError(f"charts need matplotlib ({error}): pip install 'samovar[chart]', or leave out --chart") from None


def draw(path: Path, qualities: Sequence[Quality], *, reference: str | None, text: str) -> None:
    """Write the picture. `reference` names what `beside` is about. Raises StoreError where the disk refuses."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = _panels(qualities)
    has_intervals = any(estimate.low is not None for panel in panels for estimate in panel.values)
    about = f"{text}{', 95 % intervals' if has_intervals else ''}" + (f"; reference: {reference}" if reference else "")
    style: dict[Any, Any] = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "samovar", "text.parse_math": False}
    style["figure.constrained_layout.wspace"] = 0.08
    with mpl.rc_context(style):
        figure = Figure(figsize=(2.6 + 2.7 * len(panels), 1.25 + 0.55 * len(qualities)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw_panel(axis, panel)
        axes[0].set_yticks(range(len(qualities)), [_label(quality) for quality in qualities])
        axes[0].set_ylim(len(qualities) - 0.5, -0.5)
        figure.suptitle(about, fontsize=9, color=_INK, x=0.01, ha="left")
        try:
            figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}; the chart was not written") from error


def _panels(qualities: Sequence[Quality]) -> list[_Panel]:
    besides = [quality.beside for quality in qualities if quality.beside is not None]
    if len(besides) < len(qualities):
        return [
            _Panel("perplexity", "lower is better", [quality.perplexity for quality in qualities]),
            _Panel("bits per byte", "lower is better", [quality.bits_per_byte for quality in qualities]),
        ]
    shares = [beside.top_1.scaled(100) for beside in besides]
    return [
        _Panel("KL divergence", "nats, lower is nearer", [b.kl for b in besides], is_log=True),
        _Panel("same first token", "percent, higher is nearer", shares, form=percent),
        _Panel("perplexity", "times the reference's", [beside.perplexity_ratio for beside in besides]),
    ]


def _label(quality: Quality) -> str:
    form = "" if quality.weights == "stored" else f", {quality.weights}"
    name = Path(quality.model).name
    if len(name) > _MOST_LETTERS:  # or the panels would have no room
        name = f"{name[: _MOST_LETTERS // 2]}\u2026{name[-_MOST_LETTERS // 2 :]}"
    return f"{name}{form}\n{about_model(quality)}"


def _draw_panel(axis: "Axes", panel: _Panel) -> None:
    """Points with their intervals, and the figure beside each."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = [estimate.value for estimate in panel.values]
    if panel.is_log and min(values) > 0 and max(values) > _LOG_FROM * min(values):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4))  # more numbers of many digits would run into each other
        if panel.form is percent:  # the margin reaches beyond
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value <= _ALL else ""))
    for row, estimate in enumerate(panel.values):
        axis.axhline(row, color=_GREY, linewidth=0.6, zorder=0)
        if estimate.low is not None and estimate.high is not None:
            axis.plot([estimate.low, estimate.high], [row, row], color=_BLUE, linewidth=2.2, alpha=0.45, solid_capstyle="butt")
        axis.plot([estimate.value], [row], "o", color=_BLUE, markersize=5)
        shown = panel.form(estimate.value)
        axis.annotate(shown, (estimate.value, row), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=_INK)
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.set_xlabel(panel.note, fontsize=8, color="#555555")
    axis.margins(x=0.18)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
