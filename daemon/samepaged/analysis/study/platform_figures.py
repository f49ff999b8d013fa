"""Figures 7 to 9: sharing by platform and setup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.analysis.study.drawing import (
    ROW_INCHES,
    BarRow,
    RenderedFigure,
    canvas,
    draw_bars,
    height_of,
    label,
    percent_axis,
    render,
)
from samepaged.analysis.study.formatting import percent
from samepaged.formatting import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from samepaged.analysis.study.labels import PlatformPairSharing, PlatformSharing

__all__ = ["platform_figures"]

# Maximum number of pairs of platforms in a figure.
_MAX_ROWS: Final = 40


def platform_figures(found: PlatformSharing, page_size: int) -> Iterator[RenderedFigure]:
    """Return the figures that have data."""
    if found.self_sharing:
        yield _self_sharing(found, page_size)
    if found.pairs:
        yield _inter(found, page_size)
        yield _parts(found)


def _self_sharing(found: PlatformSharing, page_size: int) -> RenderedFigure:
    title = "Figure 7: self-sharing by platform and setup"
    known = {(one.platform, one.setup): one for one in found.self_sharing}
    rows = []
    for platform in dict.fromkeys(one.platform for one in found.self_sharing):
        there = [known.get((platform, setup)) for setup in found.setups]
        notes = ["" if one is None else size(one.self_pages * page_size) for one in there]
        rows.append(BarRow(label(platform), [None if one is None else one.self_ratio for one in there], notes))
    with canvas(title, _height(rows)) as (figure, (axes,)):
        draw_bars(axes, rows, found.setups, "of the guest's memory (averages)")
        percent_axis(axes, "x")
        return render("fig07-self-by-platform", title, figure)


def _inter(found: PlatformSharing, page_size: int) -> RenderedFigure:
    title = "Figure 8: inter-VM sharing of pairs by platform and setup"
    rows = _rows(
        found, lambda one: one.inter_pages * page_size / (1 << 20), lambda one: size(one.inter_pages * page_size)
    )
    with canvas(title, _height(rows)) as (figure, (axes,)):
        draw_bars(axes, rows, found.setups, "inter-VM sharing, MiB (averages)")
        return render("fig08-inter-by-platform", title, figure)


def _parts(found: PlatformSharing) -> RenderedFigure:
    title = "Figure 9: self-sharing over total sharing of pairs by platform and setup"
    rows = _rows(found, lambda one: one.self_over_total, lambda one: percent(one.self_over_total))
    with canvas(title, _height(rows)) as (figure, (axes,)):
        draw_bars(axes, rows, found.setups, "self-sharing \N{DIVISION SIGN} total sharing (averages)")
        percent_axis(axes, "x")
        return render("fig09-self-over-total", title, figure)


def _rows(
    found: PlatformSharing,
    value: Callable[[PlatformPairSharing], float | None],
    note: Callable[[PlatformPairSharing], str],
) -> list[BarRow]:
    """Return one row per pair of platforms, with one bar per setup."""
    known = {(one.platforms, one.setup): one for one in found.pairs}
    rows = []
    for pair in list(dict.fromkeys(one.platforms for one in found.pairs))[:_MAX_ROWS]:
        there = [known.get((pair, setup)) for setup in found.setups]
        rows.append(
            BarRow(
                " / ".join(label(name, 20) for name in pair),
                [None if one is None else value(one) for one in there],
                ["" if one is None else note(one) for one in there],
            )
        )
    return rows


def _height(rows: Sequence[BarRow]) -> float:
    return height_of(len(rows), max(ROW_INCHES, 0.22 * len(rows[0].values) + 0.08))
