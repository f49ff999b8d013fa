"""Figures 11 and 12: the origin of sharing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.analysis.study.attribution.involvement import MAX_PROCESSES, is_library
from samepaged.analysis.study.drawing import (
    INK,
    INTER,
    SELF,
    SOFT,
    RenderedFigure,
    canvas,
    height_of,
    label,
    percent_axis,
    render,
)
from samepaged.analysis.study.formatting import percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

    from samepaged.analysis.study.attribution.involvement import GuestInvolvement, OwnerInvolvement

__all__ = ["attribution_figures"]

_KINDS: Final = 12
_LIBRARIES: Final = 8
# Kinds with a smaller average part of total sharing are not drawn.
_MIN_RATIO: Final = 0.001


def attribution_figures(together: GuestInvolvement) -> Iterator[RenderedFigure]:
    """Return the figures that have data."""
    yield _content(together)
    if together.processes:
        yield _by_process(together.processes[:MAX_PROCESSES])


def _content(together: GuestInvolvement) -> RenderedFigure:
    title = "Figure 11: sharing by content as a percentage of total sharing"
    kinds = [one for one in together.kinds if one.ratio.avg >= _MIN_RATIO][:_KINDS]
    files = [one for one in together.files or () if is_library(one.name)][:_LIBRARIES]
    rows = [*kinds, *together.combined, *files]
    with canvas(title, height_of(len(rows))) as (figure, (axes,)):
        _draw_involvement(axes, rows)
        return render("fig11-content", title, figure)


def _by_process(processes: Sequence[OwnerInvolvement]) -> RenderedFigure:
    title = "Figure 12: sharing by process as a percentage of total sharing"
    with canvas(title, height_of(len(processes))) as (figure, (axes,)):
        _draw_involvement(axes, processes)
        return render("fig12-process", title, figure)


def _draw_involvement(axes: Axes, rows: Sequence[OwnerInvolvement]) -> None:
    """Draw rows from the top: the average in its two parts, a line from minimum to maximum, and a note."""
    places = range(len(rows))
    own = [one.self_sharing for one in rows]
    axes.barh(places, own, height=0.62, color=SELF, alpha=0.85, label="self-sharing")
    axes.barh(
        places,
        [one.inter_sharing for one in rows],
        left=own,
        height=0.62,
        color=INTER,
        alpha=0.85,
        label="inter-VM sharing",
    )
    for at, one in zip(places, rows, strict=True):
        axes.plot([one.ratio.min, one.ratio.max], [at, at], color=INK, linewidth=1.4, marker="|", markersize=7)
        axes.annotate(
            f"{percent(one.ratio.avg)}, split {percent(one.split)}",
            (one.ratio.max, at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=SOFT,
            fontsize=8.5,
        )
    axes.set_yticks(places, [label(one.name.rpartition("/")[2] or one.name) for one in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(one.ratio.max for one in rows) * 1.3)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("of total sharing: average, minimum to maximum; involvement does not add up, the split does")
    percent_axis(axes, "x")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
