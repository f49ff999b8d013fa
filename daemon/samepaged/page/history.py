"""The last day: a chart and a table of the sharing found by scans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from samepaged.formatting import time_of_day

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from samepaged.scan.snapshot import HistoryPoint

__all__ = ["Chart", "History", "Level", "Shape", "Tick", "history", "thinned"]

_CHART_POINTS: Final = 288
_TABLE_ROWS: Final = 24
_DAY_SECONDS: Final = 86400
# The plot in its own units: the browser stretches the width, and a unit of height is a pixel.
_PLOT_WIDTH: Final = 1000.0
_PLOT_HEIGHT: Final = 200
_TICK_HOURS: Final = (1 / 60, 1 / 12, 0.25, 0.5, 1, 2, 3, 6, 12, 24)
_MAX_TICKS: Final = 6
_GAP_INTERVALS: Final = 4
_KINDS: Final = ("duplicate", "shared", "zeros")


@dataclass(frozen=True, slots=True)
class Shape:
    """A path of the plot: the class of its colour in the style sheet, and SVG path data."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line: its distance from the top of the plot in pixels, and its label if it is above zero."""

    y: float
    label: str | None


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of the time axis: its place in percent of the width, and the SVG text anchor."""

    place: float
    label: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Stacked areas of sharing, and lines of the memory that KSM has merged."""

    width: float
    height: int
    areas: tuple[Shape, ...]
    lines: tuple[str, ...]
    levels: tuple[Level, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class History:
    """The scans of the last day: the first, the last, those with the least and most sharing, and the table's rows.
    `merged` is true if the KSM counters were readable at any scan; `chart` is None with fewer than two scans.
    """

    first: HistoryPoint
    last: HistoryPoint
    lowest: HistoryPoint
    highest: HistoryPoint
    merged: bool
    rows: tuple[HistoryPoint, ...]
    chart: Chart | None


def history(points: Sequence[HistoryPoint]) -> History | None:
    """The section on the last day. `points` are the scans, oldest first; None without a scan."""
    if not points:
        return None
    recent = [point for point in points if point.ended_at > points[-1].ended_at - _DAY_SECONDS]
    return History(
        first=recent[0],
        last=recent[-1],
        lowest=min(recent, key=_total),
        highest=max(recent, key=_total),
        merged=any(point.merged is not None for point in recent),
        rows=tuple(thinned(recent, _TABLE_ROWS)),
        chart=_chart(thinned(recent, _CHART_POINTS)) if len(recent) > 1 else None,
    )


def thinned(points: Sequence[HistoryPoint], most: int) -> list[HistoryPoint]:
    """Reduce `points` to at most `most` and the last: that with the least sharing of each interval, to show drops."""
    first, last = points[0].ended_at, points[-1].ended_at
    stretch = max((last - first) / most, 1e-9)
    lowest: dict[int, HistoryPoint] = {}
    for point in points[:-1]:
        at = min(int((point.ended_at - first) / stretch), most - 1)
        if at not in lowest or _total(point) < _total(lowest[at]):
            lowest[at] = point
    return [*lowest.values(), points[-1]]


def _total(point: HistoryPoint) -> int:
    return point.self_sharing + point.inter_sharing


def _chart(points: Sequence[HistoryPoint]) -> Chart:
    top, values = _scale(max(max(_total(point) + point.zero, point.merged or 0) for point in points))
    first, last = points[0].ended_at, points[-1].ended_at

    def x(point: HistoryPoint) -> float:
        return _PLOT_WIDTH * (point.ended_at - first) / (last - first or 1)

    def y(value: float) -> float:
        return _PLOT_HEIGHT * (1 - value / top)

    # The bounds of the areas, lowest first.
    bounds: tuple[Callable[[HistoryPoint], float], ...] = (
        lambda _: y(0),
        lambda point: y(point.self_sharing),
        lambda point: y(_total(point)),
        lambda point: y(_total(point) + point.zero),
    )
    return Chart(
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT,
        areas=tuple(
            Shape(kind, _area(run, x, below, above))
            for run in _without_gaps(points)
            for kind, (below, above) in zip(_KINDS, pairwise(bounds), strict=True)
        ),
        lines=tuple(
            _path([(x(point), y(point.merged or 0)) for point in run])
            for run in _without_gaps([point for point in points if point.merged is not None])
        ),
        levels=tuple(Level(y(value), label if value else None) for value, label in values),
        ticks=tuple(_ticks(first, last)),
    )


def _area(
    run: Sequence[HistoryPoint],
    x: Callable[[HistoryPoint], float],
    below: Callable[[HistoryPoint], float],
    above: Callable[[HistoryPoint], float],
) -> str:
    upper = [(x(point), above(point)) for point in run]
    lower = [(x(point), below(point)) for point in run]
    if len(run) == 1:  # a scan between two gaps would have zero width
        upper.append((x(run[0]) + 2, above(run[0])))
        lower.append((x(run[0]) + 2, below(run[0])))
    return f"{_path(upper + lower[::-1])}Z"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return f"M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in points)}"


def _without_gaps(points: Sequence[HistoryPoint]) -> Iterator[list[HistoryPoint]]:
    """Runs of `points` without gaps: an interval far above the median is a gap in the chart."""
    if not points:
        return
    intervals = [later.ended_at - point.ended_at for point, later in pairwise(points)]
    longest = _GAP_INTERVALS * median(intervals) if intervals else 0.0
    run = [points[0]]
    for point, interval in zip(points[1:], intervals, strict=True):
        if interval > longest:
            yield run
            run = []
        run.append(point)
    yield run


def _scale(most: int) -> tuple[float, list[tuple[float, str]]]:
    """The value at the top of the chart, and its levels with their labels, for values up to `most` bytes."""
    power = min(max(int(math.log(max(most, 1024), 1024)), 1), 4)
    unit = 1024.0**power
    name = ("KiB", "MiB", "GiB", "TiB")[power - 1]
    rough = max(most, 1) / unit / 4
    ten = 10.0 ** math.floor(math.log10(rough))
    step = next(ten * factor for factor in (1, 2, 5, 10) if ten * factor >= rough * (1 - 1e-9))
    count = math.ceil(most / unit / step - 1e-9) or 1
    return count * step * unit, [(at * step * unit, f"{at * step:g} {name}") for at in range(count + 1)]


def _ticks(first: float, last: float) -> Iterator[Tick]:
    step = next((3600 * h for h in _TICK_HOURS if (last - first) / (3600 * h) <= _MAX_TICKS), _DAY_SECONDS)
    at = math.ceil(first / step) * step
    while at <= last:
        place = (at - first) / (last - first or 1)
        # Near an end, a centred label would be cut off.
        anchor = "start" if place < 0.07 else "end" if place > 0.93 else "middle"  # noqa: PLR2004 - of the width
        yield Tick(100 * place, time_of_day(at), anchor)
        at += step
