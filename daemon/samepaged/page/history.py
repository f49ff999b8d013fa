"""The last day: what the guests could share, from scan to scan."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING, Final

from samepaged.page.charts import legend
from samepaged.page.markup import Html, amount, element, share, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from samepaged.scan.snapshot import HistoryPoint

__all__ = ["history", "thinned"]

_POINTS: Final = 288
_ROWS: Final = 24
_DAY: Final = 86400
_WIDE: Final = 1000.0  # of the plot, in units that are stretched to the width there is
_HIGH: Final = 200
_ABOVE, _BELOW = 12, 24
_HOURS: Final = (1 / 60, 1 / 12, 0.25, 0.5, 1, 2, 3, 6, 12, 24)
_MOST_TIMES: Final = 6
_GAP: Final = 4  # a pause of so many usual ones is a gap


def history(moments: Sequence[HistoryPoint]) -> Html:
    """The section on the last day. `moments` are the scans, the oldest first."""
    recent = [one for one in moments if one.ended > moments[-1].ended - _DAY]
    heading = element("h2", "The last day", id="history-title")
    if len(recent) < 2:  # noqa: PLR2004 - a line has two ends
        return element(
            "section",
            heading,
            element("p", "The chart begins with the second scan since samepaged was started."),
            id="history",
            aria_labelledby="history-title",
        )
    points = thinned(recent, _POINTS)
    return element(
        "section",
        heading,
        element("figure", _chart(points), element("figcaption", _told(recent))),
        legend(
            ("duplicate", "self-sharing"),
            ("shared", "inter-VM sharing"),
            ("zeros", "zero pages"),
            *([("have", "merged by KSM (dashed line)")] if any(one.merged is not None for one in recent) else []),
        ),
        element("details", element("summary", "The last day as a table"), _table(thinned(recent, _ROWS))),
        id="history",
        aria_labelledby="history-title",
    )


def thinned(moments: Sequence[HistoryPoint], most: int) -> list[HistoryPoint]:
    """At most `most` of `moments` and the last: of each stretch of time the one with least sharing, as drops matter."""
    first, last = moments[0].ended, moments[-1].ended
    stretch = max((last - first) / most, 1e-9)
    lowest: dict[int, HistoryPoint] = {}
    for one in moments[:-1]:
        at = min(int((one.ended - first) / stretch), most - 1)
        if at not in lowest or _sharing(one) < _sharing(lowest[at]):
            lowest[at] = one
    return [*lowest.values(), moments[-1]]


def _sharing(one: HistoryPoint) -> int:
    return one.self_sharing + one.inter_sharing


def _told(moments: Sequence[HistoryPoint]) -> str:
    first, last = moments[0], moments[-1]
    low, high = min(moments, key=_sharing), max(moments, key=_sharing)
    return (
        f"Total sharing in the last {span(last.ended - first.ended)}: {amount(_sharing(last))} now "
        f"({share(_sharing(last), last.memory)} of the memory), lowest {amount(_sharing(low))} at {_time(low.ended)}, "
        f"highest {amount(_sharing(high))} at {_time(high.ended)} UTC."
    )


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%H:%M")


def _chart(points: Sequence[HistoryPoint]) -> Html:
    top, lines = _scale(max(max(_sharing(one) + one.zero, one.merged or 0) for one in points))
    first, last = points[0].ended, points[-1].ended

    def x(one: HistoryPoint) -> float:
        return _WIDE * (one.ended - first) / (last - first or 1)

    def y(value: float) -> float:
        return _HIGH * (1 - value / top)

    drawn = []
    for run in _unbroken(points):
        drawn += [
            _area("duplicate", run, x, lambda _: y(0), lambda one: y(one.self_sharing)),
            _area("shared", run, x, lambda one: y(one.self_sharing), lambda one: y(_sharing(one))),
            _area("zeros", run, x, lambda one: y(_sharing(one)), lambda one: y(_sharing(one) + one.zero)),
        ]
    for run in _unbroken([one for one in points if one.merged is not None]):
        along = "L".join(f"{x(one):.1f} {y(one.merged or 0):.1f}" for one in run)
        drawn += [element("path", class_=kind, d=f"M{along}") for kind in ("line halo", "line")]
    plot = element(
        "svg",
        *drawn,
        y=_ABOVE,
        width="100%",
        height=_HIGH,
        viewBox=f"0 0 {_WIDE:.0f} {_HIGH}",
        preserveAspectRatio="none",
    )
    title = element("title", f"Chart. {_told(points)}")
    return element(
        "svg",
        title,
        plot,
        *_levels(lines, y),
        *_times(first, last),
        class_="chart",
        role="img",
        width="100%",
        height=_ABOVE + _HIGH + _BELOW,
    )


def _area(
    kind: str,
    run: Sequence[HistoryPoint],
    x: Callable[[HistoryPoint], float],
    below: Callable[[HistoryPoint], float],
    above: Callable[[HistoryPoint], float],
) -> Html:
    there = [f"{x(one):.1f} {above(one):.1f}" for one in run]
    back = [f"{x(one):.1f} {below(one):.1f}" for one in reversed(run)]
    if len(run) == 1:  # a scan between two gaps would be a line without width
        there.append(f"{x(run[0]) + 2:.1f} {above(run[0]):.1f}")
        back.insert(0, f"{x(run[0]) + 2:.1f} {below(run[0]):.1f}")
    return element("path", class_=f"area {kind}", d=f"M{'L'.join(there + back)}Z")


def _unbroken(points: Sequence[HistoryPoint]) -> Iterator[list[HistoryPoint]]:
    """`points` without gaps: where no scan was for much longer than is usual, nothing is known, and nothing drawn."""
    if not points:
        return
    pauses = [later.ended - one.ended for one, later in pairwise(points)]
    longest = _GAP * median(pauses) if pauses else 0.0
    run = [points[0]]
    for one, pause in zip(points[1:], pauses, strict=True):
        if pause > longest:
            yield run
            run = []
        run.append(one)
    yield run


def _scale(most: int) -> tuple[float, list[tuple[float, str]]]:
    """The top of the chart, and its horizontal lines with their names."""
    power = min(max(int(math.log(max(most, 1024), 1024)), 1), 4)
    unit = 1024.0**power
    name = ("KiB", "MiB", "GiB", "TiB")[power - 1]
    rough = max(most, 1) / unit / 4
    ten = 10.0 ** math.floor(math.log10(rough))
    step = next(ten * factor for factor in (1, 2, 5, 10) if ten * factor >= rough * (1 - 1e-9))
    count = math.ceil(most / unit / step - 1e-9) or 1
    return count * step * unit, [(at * step * unit, f"{at * step:g} {name}") for at in range(count + 1)]


def _levels(lines: Sequence[tuple[float, str]], y: Callable[[float], float]) -> Iterator[Html]:
    for value, name in lines:
        at = f"{_ABOVE + y(value):.1f}"
        yield element("line", class_="grid", x1=0, x2="100%", y1=at, y2=at)
        if value:
            yield element("text", name, x=2, y=f"{_ABOVE + y(value) - 3:.1f}")


def _times(first: float, last: float) -> Iterator[Html]:
    step = next((3600 * h for h in _HOURS if (last - first) / (3600 * h) <= _MOST_TIMES), _DAY)
    at = math.ceil(first / step) * step
    while at <= last:
        place = (at - first) / (last - first or 1)
        # At the ends there is no room on both sides.
        anchor = "start" if place < 0.07 else "end" if place > 0.93 else "middle"  # noqa: PLR2004 - of the width
        yield element("text", _time(at), x=f"{100 * place:.2f}%", y=_ABOVE + _HIGH + 17, text_anchor=anchor)
        at += step


def _table(points: Sequence[HistoryPoint]) -> Html:
    names = ("time", "self-sharing", "inter-VM sharing", "zero pages", "merged by KSM")
    head = element(
        "tr", *(element("th", name, scope="col", class_="number" if at else None) for at, name in enumerate(names))
    )
    rows = [
        element(
            "tr",
            element("th", _time(one.ended), scope="row", class_="time"),
            *(
                element("td", "\N{EN DASH}" if value is None else amount(value), class_="number")
                for value in attrgetter("self_sharing", "inter_sharing", "zero", "merged")(one)
            ),
        )
        for one in points
    ]
    note = "Times are in UTC. Of scans that are close together, the one with least sharing."
    return element("table", element("caption", note), element("thead", head), element("tbody", *rows))
