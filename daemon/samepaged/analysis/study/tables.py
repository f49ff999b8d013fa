"""A study as tables, each named after the figure of the paper that it reproduces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

from samepaged.analysis.study.attribution.tables import attribution_tables
from samepaged.analysis.study.formatting import DASH, named, percent
from samepaged.analysis.study.table import Table
from samepaged.escape import printable
from samepaged.formatting import duration, size
from samepaged.traces.collisions import expected_self_collisions, expected_shared_collisions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.analysis.study.min_avg_max import MinAvgMax
    from samepaged.analysis.study.study import Study

__all__ = ["tables"]

# Maximum rows of a table of pairs; JSON has all.
_MAX_ROWS: Final = 40


def tables(study: Study) -> tuple[Table, ...]:
    """Return the tables that have data."""
    found = (
        _self_sharing(study),
        _pairs(study),
        _groups(study),
        _zeros(study),
        *_platforms(study),
        _page_sizes(study),
        *attribution_tables(study.attribution),
        _stability(study),
    )
    return tuple(table for table in found if table.rows)


def _percents(spread: MinAvgMax | None) -> tuple[str, ...]:
    return (DASH,) * 3 if spread is None else tuple(percent(one) for one in (spread.min, spread.avg, spread.max))


def _average_and_min(spread: MinAvgMax | None) -> tuple[str, ...]:
    return (DASH,) * 2 if spread is None else (percent(spread.avg), percent(spread.min))


def _amounts(spread: MinAvgMax, page_size: int) -> tuple[str, ...]:
    return tuple(size(one * page_size) for one in (spread.min, spread.avg, spread.max))


def _self_sharing(study: Study) -> Table:
    page = study.page_size
    return Table(
        key="fig05-self-sharing",
        figure="Figure 5",
        title="self-sharing within each guest, over its traces",
        headings=("guest", "traces", "memory", "min", "avg", "max", "min", "avg", "max"),
        rows=tuple(
            (
                named(one.domain),
                str(one.traces),
                size(one.memory.avg * page),
                *_percents(one.ratio),
                *_amounts(one.pages, page),
            )
            for one in study.guests
        ),
        note="In per cent of the guest's memory, and in bytes. Zero pages are excluded." + _collisions(study, own=True),
    )


def _pairs(study: Study) -> Table:
    page = study.page_size
    ordered = sorted(study.pairs, key=lambda one: (-one.inter_pages.avg, one.domains))
    shown = ordered[:_MAX_ROWS]
    note = _sample_note(study)
    if len(shown) < len(ordered):
        note += f" The {len(shown)} largest of {len(ordered)} pairs; see --json for all."
    if study.sample > 1:
        note += f" Estimated from 1/{study.sample} of the contents."
    return Table(
        key="fig06-inter-vm-sharing",
        figure="Figure 6",
        title="inter-VM sharing of pairs of guests, over pairs of their traces",
        headings=("guest", "guest", "min", "avg", "max", "min", "avg", "max", "self/total"),
        rows=tuple(
            (
                *map(named, one.domains),
                *_percents(one.inter_ratio),
                *_amounts(one.inter_pages, page),
                percent(one.self_over_total),
            )
            for one in shown
        ),
        names=2,
        note=f"In per cent of the memory of both, and in bytes. {note}{_collisions(study, own=False)}",
    )


def _collisions(study: Study, *, own: bool) -> str:
    """Return a note on hash collisions: different contents with the same hash."""
    if study.hash_bits == 64:  # noqa: PLR2004 - whole hashes do not collide
        return ""
    sizes = sorted((round(guest.distinct.avg) for guest in study.guests), reverse=True)
    if own:
        pages = expected_self_collisions(sizes[0], study.hash_bits)
    elif len(sizes) > 1:
        pages = expected_shared_collisions(sizes[0], sizes[1], study.hash_bits)
    else:
        return ""
    most = "all" if math.isinf(pages) else size(pages * study.page_size)
    return f" Hashes have {study.hash_bits} bits: up to {most} of a figure may be collisions; --json lists them."


def _sample_note(study: Study) -> str:
    drawn = sum(not one.exact for one in study.pairs)
    if not drawn:
        return "All pairs of traces."
    of = "" if drawn == len(study.pairs) else f" for {drawn} of the {len(study.pairs)} pairs of guests, otherwise all"
    return f"{study.max_pairs} random pairs of traces{of} (--seed {study.seed})."


def _groups(study: Study) -> Table:
    page = study.page_size
    return Table(
        key="sec422-groups",
        figure="Section 4.2.2",
        title="sharing of groups of guests",
        headings=("guests", "groups", "of", "total", "min", "inter", "max", "self", "inter", "part"),
        rows=tuple(
            (
                str(one.guests),
                str(one.groups),
                "all" if one.exact else f"{one.possible:.3g}",
                percent(one.total_ratio.avg),
                *_percents(one.inter_ratio),
                size(one.self_pages * page),
                size(one.inter_pages.avg * page),
                percent(one.inter_over_total),
            )
            for one in study.groups
        ),
        names=0,
        note="One trace of each guest. In per cent of the memory of the group, averages and, for inter-VM sharing, "
        "minimum and maximum; averages in bytes; the part of inter-VM sharing in the total.",
    )


def _zeros(study: Study) -> Table:
    page = study.page_size
    ordered = sorted(study.pairs, key=lambda one: (-one.total_pages, one.domains))[:_MAX_ROWS]
    rows = []
    for one in ordered:
        with_zeros = one.self_with_zeros + one.inter_with_zeros
        rows.append(
            (
                *map(named, one.domains),
                size(one.total_pages * page),
                percent(one.self_pages / one.total_pages if one.total_pages else None),
                size(with_zeros * page),
                percent(one.self_with_zeros / with_zeros if with_zeros else None),
            )
        )
    return Table(
        key="fig02-zero-pages",
        figure="Figure 2",
        title="sharing of pairs of guests, without and with zero pages",
        headings=("guest", "guest", "total", "self", "with zeros", "self"),
        rows=tuple(rows),
        names=2,
        note="Averages over pairs of traces. Further zero pages of a guest are self-sharing; they add a page to "
        "inter-VM sharing.",
    )


def _platforms(study: Study) -> Iterator[Table]:
    if study.platforms is None:
        return
    page = study.page_size
    left = study.platforms.unlabelled
    note = f"Excluded, because they are unlabelled: {_listed(left)}." if left else ""
    yield Table(
        key="fig07-self-by-platform",
        figure="Figure 7",
        title="self-sharing by platform and setup",
        headings=("platform", "setup", "guests", "avg", "avg"),
        rows=tuple(
            (printable(one.platform), printable(one.setup), *_averages(one.guests, one, page))
            for one in study.platforms.self_sharing
        ),
        names=2,
        note=f"In per cent of memory, and in bytes. {note}".rstrip(),
    )
    yield Table(
        key="fig08-09-by-platform",
        figure="Figures 8 and 9",
        title="pairs of guests by platform and setup: inter-VM sharing, and self-sharing over total sharing",
        headings=("platform", "platform", "setup", "pairs", "inter-VM", "self", "self/total"),
        rows=tuple(
            (
                *map(printable, (*one.platforms, one.setup)),
                str(one.pairs),
                size(one.inter_pages * page),
                size(one.self_pages * page),
                percent(one.self_over_total),
            )
            for one in study.platforms.pairs
        ),
        names=3,
        note=f"Averages over pairs of guests of the same setup. {note}".rstrip(),
    )


class _SelfSharing(Protocol):
    @property
    def self_ratio(self) -> float | None: ...

    @property
    def self_pages(self) -> float: ...


def _averages(count: int, one: _SelfSharing, page_size: int) -> tuple[str, str, str]:
    """Return the cells of an average self-sharing: the number of values, the ratio, and the bytes."""
    return str(count), percent(one.self_ratio), size(one.self_pages * page_size)


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(map(named, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _page_sizes(study: Study) -> Table:
    return Table(
        key="fig10-page-size",
        figure="Figure 10",
        title="self-sharing by page size",
        headings=("guest", "page size", "traces", "avg", "avg"),
        rows=tuple(
            (named(one.domain), size(one.page_size), *_averages(one.traces, one, one.page_size))
            for one in study.page_sizes
        ),
        note="In per cent of the guest's memory, and in bytes.",
    )


def _stability(study: Study) -> Table:
    return Table(
        key="stability",
        figure="Section 7",
        title="stability: the part of a guest's contents, and of its self-sharing, that a later trace still has",
        headings=("guest", "lag", "traces on", "pairs", "contents", "min", "self", "min"),
        rows=tuple(
            (
                named(one.domain),
                duration(one.seconds),
                str(one.lag),
                str(one.pairs),
                *_average_and_min(one.content_ratio),
                *_average_and_min(one.sharing_ratio),
            )
            for one in study.stability
        ),
        note="Averages and minima.",
    )
