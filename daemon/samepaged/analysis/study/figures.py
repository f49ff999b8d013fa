"""A study as figures, each named after the figure of the paper that it reproduces."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from samepaged.analysis.study.attribution.figures import attribution_figures
from samepaged.analysis.study.comparison import KINDS
from samepaged.analysis.study.drawing import (
    COLOURS,
    INK,
    INTER,
    SELF,
    RangeRow,
    RenderedFigure,
    canvas,
    draw_ranges,
    height_of,
    label,
    percent_axis,
    render,
)
from samepaged.analysis.study.formatting import percent
from samepaged.analysis.study.platform_figures import platform_figures
from samepaged.formatting import duration, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from samepaged.analysis.study.comparison import Comparison
    from samepaged.analysis.study.study import Study

__all__ = ["comparison_figure", "figures"]

# Maximum number of rows in a figure; the largest are drawn.
_MAX_ROWS: Final = 40
_MAX_ZERO_PAIRS: Final = 12
_MARKERS: Final = "osD^vP*Xhp"


def figures(study: Study) -> Iterator[RenderedFigure]:
    """Return the figures that have data, in the order of the tables."""
    yield _self_sharing(study)
    if study.pairs:
        yield _pairs(study)
    if study.groups:
        yield _groups(study)
    if study.pairs:
        yield _zeros(study)
    if study.platforms is not None:
        yield from platform_figures(study.platforms, study.page_size)
    if study.page_sizes:
        yield _page_sizes(study)
    if study.attribution is not None:
        yield from attribution_figures(study.attribution.all_guests)
    if study.stability:
        yield _stability(study)


def comparison_figure(comparison: Comparison) -> RenderedFigure:
    """Draw Figure 14."""
    title = "Figure 14: reduction of sharing from the first to the second set of traces"
    with canvas(title, 3.2) as (figure, (axes,)):
        there = [(kind, found) for kind in KINDS if (found := comparison.reduction[kind]) is not None]
        for at, (_, found) in enumerate(there):
            axes.barh(at, found.avg, height=0.6, color=(COLOURS[6], SELF, INTER)[KINDS.index(there[at][0])])
            axes.plot([found.min, found.max], [at, at], color=INK, linewidth=1.4, marker="|", markersize=8)
            end = max(found.max, found.avg, 0)
            axes.annotate(
                f"{found.avg:.1f}%", (end, at), xytext=(7, 0), textcoords="offset points", va="center", color=INK
            )
        names = {"total": "total sharing", "self": "self-sharing", "inter": "inter-VM sharing"}
        axes.set_yticks(range(len(there)), [names[kind] for kind, _ in there])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.margins(x=0.12)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        axes.set_xlabel("reduction of the average; the line spans minimum to maximum")
        return render("fig14-reduction", title, figure)


def _largest(shown: int, of: int, what: str) -> str:
    return "" if shown == of else f" (the {shown} largest of {of} {what})"


def _self_sharing(study: Study) -> RenderedFigure:
    guests = study.guests
    if len(guests) > _MAX_ROWS:
        guests = tuple(sorted(guests, key=lambda one: (-one.ratio.avg, one.domain))[:_MAX_ROWS])
    title = f"Figure 5: self-sharing of each guest{_largest(len(guests), len(study.guests), 'guests')}"
    rows = [
        RangeRow(
            label(one.domain),
            one.ratio,
            " / ".join(size(pages * study.page_size) for pages in (one.pages.min, one.pages.avg, one.pages.max)),
        )
        for one in guests
    ]
    with canvas(title, height_of(len(rows))) as (figure, (axes,)):
        draw_ranges(axes, rows, SELF, "of the guest's memory: average, minimum to maximum; in bytes: min / avg / max")
        percent_axis(axes, "x")
        return render("fig05-self-sharing", title, figure)


def _pairs(study: Study) -> RenderedFigure:
    ordered = sorted(study.pairs, key=lambda one: (-one.inter_ratio.avg, one.domains))
    pairs = ordered[:_MAX_ROWS]
    title = f"Figure 6: inter-VM sharing of pairs of guests{_largest(len(pairs), len(ordered), 'pairs')}"
    rows = [
        RangeRow(
            " + ".join(label(name, 20) for name in one.domains),
            one.inter_ratio,
            f"at most {size(one.inter_pages.max * study.page_size)}",
        )
        for one in pairs
    ]
    with canvas(title, height_of(len(rows))) as (figure, (axes,)):
        draw_ranges(axes, rows, INTER, "of the memory of both: average, minimum to maximum")
        percent_axis(axes, "x")
        return render("fig06-inter-vm-sharing", title, figure)


def _groups(study: Study) -> RenderedFigure:
    title = "Section 4.2.2: sharing of groups of guests"
    groups = study.groups
    with canvas(title, 4.2) as (figure, (axes,)):
        places = range(len(groups))
        inter = [one.inter_ratio.avg for one in groups]
        own = [one.total_ratio.avg - one.inter_ratio.avg for one in groups]
        axes.bar(places, own, width=0.7, color=SELF, label="self-sharing")
        axes.bar(places, inter, width=0.7, bottom=own, color=INTER, label="inter-VM sharing")
        for at, one in zip(places, groups, strict=True):
            axes.plot(
                [at, at], [one.total_ratio.min, one.total_ratio.max], color=INK, linewidth=1.4, marker="_", markersize=7
            )
            axes.annotate(
                f"{percent(one.inter_over_total)}\ninter",
                (at, max(one.total_ratio.max, one.total_ratio.avg)),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set_xticks(places, [str(one.guests) for one in groups])
        axes.set_xlim(-0.7, max(len(groups), 3) - 0.3)
        most = max(one.total_ratio.max for one in groups)
        axes.set_ylim(0, most * 1.25 if most else 1)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("guests in the group; above: inter-VM sharing as a part of the total")
        axes.set_ylabel("of the group's memory")
        percent_axis(axes, "y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
        return render("sec422-groups", title, figure)


def _zeros(study: Study) -> RenderedFigure:
    ordered = sorted(study.pairs, key=lambda one: (-one.total_pages, one.domains))
    pairs = ordered[:_MAX_ZERO_PAIRS]
    title = f"Figure 2: without and with zero pages{_largest(len(pairs), len(ordered), 'pairs')}"
    unit = study.page_size / (1 << 20)
    with canvas(title, height_of(len(pairs), 0.5)) as (figure, (axes,)):
        most = 0.0
        for at, one in enumerate(pairs):
            for shift, name, own, inter in (
                (-0.2, "without", one.self_pages, one.inter_pages.avg),
                (0.2, "with zeros", one.self_with_zeros, one.inter_with_zeros),
            ):
                first = not at and name == "without"
                look: dict[str, Any] = {"height": 0.36, "alpha": 1.0 if name == "without" else 0.6}
                axes.barh(at + shift, own * unit, color=SELF, label="self-sharing" if first else None, **look)
                axes.barh(
                    at + shift,
                    inter * unit,
                    left=own * unit,
                    color=INTER,
                    label="inter-VM sharing" if first else None,
                    **look,
                )
                total = own + inter
                most = max(most, total * unit)
                axes.annotate(
                    f"{size(total * study.page_size)}, {percent(own / total if total else None)} self ({name})",
                    (total * unit, at + shift),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        axes.set_yticks(range(len(pairs)), [" + ".join(label(name, 20) for name in one.domains) for one in pairs])
        axes.set_ylim(len(pairs) - 0.4, -0.6)
        axes.set_xlim(0, most * 1.45 if most else 1)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("sharing of the pair, MiB (averages)")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
        return render("fig02-zero-pages", title, figure)


def _page_sizes(study: Study) -> RenderedFigure:
    title = "Figure 10: self-sharing by page size"
    lines: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    sums: defaultdict[float, list[float]] = defaultdict(list)
    for one in study.page_sizes:
        lines[one.domain].append((one.page_size, one.self_ratio))
        sums[one.page_size].append(one.self_ratio)
    average = [(page_size, sum(ratios) / len(ratios)) for page_size, ratios in sorted(sums.items())]
    with canvas(title, 4.2) as (figure, (axes,)):
        _lines(axes, lines, average)
        sizes = sorted({one.page_size for one in study.page_sizes})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [size(one) for one in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel("page size")
        axes.set_ylabel("of the guest's memory (averages)")
        percent_axis(axes, "y")
        _legend(figure, axes)
        return render("fig10-page-size", title, figure)


def _stability(study: Study) -> RenderedFigure:
    title = "Stability: the part of a trace that a later trace of the guest still has"
    with canvas(title, 4.2, panels=2) as (figure, panels):
        for axes, what in zip(panels, ("distinct contents", "self-sharing"), strict=True):
            lines: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
            lags: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
            for one in study.stability:
                ratio = one.content_ratio if axes is panels[0] else one.sharing_ratio
                if ratio is not None and one.seconds > 0:
                    lines[one.domain].append((one.seconds, ratio.avg))
                    lags[one.lag].append((one.seconds, ratio.avg))
            _lines(axes, lines, [_mean(points) for _, points in sorted(lags.items())])
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
            times = sorted({at for line in lines.values() for at, _ in line})
            axes.set_xticks(_log_ticks(times))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_ylim(0, 1.03)
            axes.set_xlabel("later by")
            axes.set_ylabel(f"{what} still present")
            percent_axis(axes, "y")
        _legend(figure, panels[0])
        return render("stability", title, figure)


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the geometric mean, because the lags differ by orders of magnitude."""
    return sum(at for at, _ in points) / len(points), sum(value for _, value in points) / len(points)


def _log_ticks(times: list[float], most: int = 5) -> list[float]:
    """Select ticks from `times`, evenly spaced in the logarithm like the lags."""
    kept: list[float] = []
    for at in times:
        if not kept or at >= kept[-1] * 1.5:
            kept.append(at)
    step = -(-len(kept) // most)
    return kept[::step]


def _lines(axes: Axes, lines: dict[str, list[tuple[float, float]]], average: list[tuple[float, float]]) -> None:
    """Draw one line per guest, in different colours if there are few; otherwise in one colour, with the average."""
    many = len(lines) > len(COLOURS)
    for number, (name, points) in enumerate(lines.items()):
        axes.plot(
            *zip(*points, strict=True),
            color="#8b97a4" if many else COLOURS[number],
            alpha=0.5 if many else 1,
            linewidth=1 if many else 1.8,
            marker=None if many else _MARKERS[number],
            markersize=5,
            label=f"each of {len(lines)} guests" if many and not number else "_" * many + label(name, 22),
        )
    if many:
        axes.plot(*zip(*average, strict=True), color=SELF, linewidth=2.5, marker="o", label="average")
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=min(4, len(labels)), fontsize=9)
