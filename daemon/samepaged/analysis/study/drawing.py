"""Drawing primitives of the figures, and their output as PNG and as SVG with text as text."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from samepaged.analysis.study.formatting import named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

    from samepaged.analysis.study.min_avg_max import MinAvgMax

__all__ = [
    "COLOURS",
    "INK",
    "INTER",
    "ROW_INCHES",
    "SELF",
    "BarRow",
    "RangeRow",
    "RenderedFigure",
    "canvas",
    "draw_bars",
    "draw_ranges",
    "height_of",
    "label",
    "percent_axis",
    "render",
]

SELF: Final = "#0b6bb8"
INTER: Final = "#d9820f"
INK: Final = "#1b2128"
SOFT: Final = "#55606c"
# Distinguishable with colour vision deficiency: Okabe and Ito's palette, without its yellow.
COLOURS: Final = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#555555",
    "#882255",
    "#117733",
    "#999933",
)
MAX_LABEL_CHARS: Final = 30
WIDTH_INCHES: Final = 9.0
ROW_INCHES: Final = 0.3
STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "samepaged",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d5dbe1",
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class RangeRow:
    """A row: its name, its range, and the note behind it."""

    name: str
    spread: MinAvgMax
    note: str


@dataclass(frozen=True, slots=True)
class BarRow:
    """A row of bars: its name; for each kind of bar its length, and the note behind it."""

    name: str
    values: Sequence[float | None]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class RenderedFigure:
    """A rendered figure. `key` is the key of its table, or a file name; `title` describes it."""

    key: str
    title: str
    png: bytes
    svg: str


@contextmanager
def canvas(title: str, height: float, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """Create a figure of `panels` side by side, `height` inches high, in our style regardless of the user's."""
    # The canvas selects the backend; setting a default one would load pyplot.
    style: Any = {key: value for key, value in mpl.rcParamsDefault.items() if "backend" not in key} | STYLE
    with mpl.rc_context(style), warnings.catch_warnings():
        # A name may have characters that the font lacks; the SVG keeps them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH_INCHES, height), facecolor="white")
        found = figure.subplots(1, panels, squeeze=False)[0]
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
        yield figure, list(found)


def render(key: str, title: str, figure: Figure) -> RenderedFigure:
    """Render the figure."""
    picture = _png(figure)
    figure.set_layout_engine("none")  # the layout is final
    return RenderedFigure(key, title, picture, _svg(figure))


def height_of(rows: int, row: float = ROW_INCHES) -> float:
    """Return the height in inches of a figure with `rows` rows."""
    return 1.5 + row * max(rows, 2)


def _png(figure: Figure) -> bytes:
    """Render as PNG, deterministically."""
    found = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(found, format="png", dpi=144, metadata={"Software": None})
    return found.getvalue()


def _svg(figure: Figure) -> str:
    """Render as SVG, deterministically."""
    found = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(found, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    # Remove blanks at the ends of lines, as in paths.
    return re.sub(r"[ \t]+$", "", found.getvalue(), flags=re.MULTILINE)


def label(name: str, longest: int = MAX_LABEL_CHARS) -> str:
    """Return a name as a label: on one line, with the middle cut out if it is long."""
    text = named(name)
    # matplotlib omits names that begin with _ from legends.
    text = f" {text}" if text.startswith("_") else text
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest - longest // 2 - 1) :]}"


def draw_ranges(axes: Axes, rows: Sequence[RangeRow], colour: str, axis_label: str) -> None:
    """Draw rows from the top: a bar for the average, a line from minimum to maximum, and a note."""
    places = range(len(rows))
    axes.barh(places, [row.spread.avg for row in rows], height=0.62, color=colour, alpha=0.85, label="average")
    for at, row in zip(places, rows, strict=True):
        axes.plot([row.spread.min, row.spread.max], [at, at], color=INK, linewidth=1.4, marker="|", markersize=7)
        _annotate(axes, row.note, (max(row.spread.max, row.spread.avg), at), points=6, size=8.5)
    _label_rows(axes, [row.name for row in rows])
    longest = max((len(row.note) for row in rows), default=0)
    _make_room(axes, max((row.spread.max for row in rows), default=0), 1.04 + longest / 100)
    axes.set_xlabel(axis_label)


def draw_bars(axes: Axes, rows: Sequence[BarRow], kinds: Sequence[str], axis_label: str) -> None:
    """Draw rows from the top, each with one bar per kind and a note behind it; bars of None are omitted."""
    height = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        there = [
            (at + (number - (len(kinds) - 1) / 2) * height, value, row.notes[number])
            for at, row in enumerate(rows)
            if (value := row.values[number]) is not None
        ]
        axes.barh(
            [at for at, _, _ in there],
            [value for _, value, _ in there],
            height=height * 0.9,
            color=COLOURS[number % len(COLOURS)],
            label=label(kind),
        )
        for at, value, note in there:
            _annotate(axes, note, (value, at), points=4, size=8)
    _label_rows(axes, [row.name for row in rows])
    _make_room(axes, max((value for row in rows for value in row.values if value is not None), default=0))
    axes.set_xlabel(axis_label)
    if len(kinds) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(kinds), 4), borderaxespad=0.2)


def percent_axis(axes: Axes, direction: str) -> None:
    """Label the axis in per cent."""
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(xmax=1))


def _annotate(axes: Axes, note: str, at: tuple[float, float], *, points: float, size: float) -> None:
    """Write a note in type of this size, `points` points to the right of a place."""
    axes.annotate(note, at, xytext=(points, 0), textcoords="offset points", va="center", color=SOFT, fontsize=size)


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _make_room(axes: Axes, most: float, times: float = 1.18) -> None:
    """Reserve room for the notes, even if all values are zero."""
    axes.set_xlim(0, most * times if most > 0 else 1)
