"""Sharing of pairs of guests: a heat map of the guests in the largest pairs, and a table of these pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from samepaged.scan.results import HostScan
    from samepaged.sharing import PairSharing

__all__ = ["Cell", "HeatMap", "MapRow", "PairRow", "Pairs", "pairs"]

_MAX_MAP_GUESTS: Final = 24
_TABLE_ROWS: Final = 10
_STEPS: Final = 5
_LABELLED_CELLS_GUESTS: Final = 4
# Widths in percent of the map: of all cells, and at most of one. The last label needs the remaining width.
_CELLS_WIDTH: Final = 66.0
_CELL_WIDTH: Final = 12.0
_LABELLED_CELL_WIDTH: Final = 18.0
_CELL_HEIGHT: Final = 18
_LABELLED_CELL_HEIGHT: Final = 30


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: the sharing with the guest of that column in bytes, and its colour, 1 to 5; 0 if they share nothing."""

    other: str
    shared: int
    step: int


@dataclass(frozen=True, slots=True)
class MapRow:
    """A guest of the map, and a cell for each guest above it."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The lower triangle of a matrix of guests. `cell_width` is in percent of the map and `cell_height` in pixels;
    `bounds` are the largest sizes in bytes of colours 1 to 5. `labelled` cells show their size.
    """

    rows: tuple[MapRow, ...]
    cell_width: float
    cell_height: int
    labelled: bool
    bounds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairRow:
    """A pair of guests, and its inter-VM sharing in bytes."""

    first: str
    second: str
    shared: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """The section: `guests` and `total` count all guests and all pairs that share, shown or not. `heat_map` is None if
    none share.
    """

    guests: int
    total: int
    heat_map: HeatMap | None
    largest: tuple[PairRow, ...]


def pairs(scan: HostScan) -> Pairs | None:
    """The section on pairs; None with fewer than two guests."""
    report = scan.report
    if len(report.guests) < 2:  # noqa: PLR2004
        return None
    return Pairs(
        guests=len(report.guests),
        total=len(report.pairs),
        heat_map=_heat_map(report.pairs, report.page_size) if report.pairs else None,
        largest=tuple(
            PairRow(*pair.domains, pair.inter_sharing_pages * report.page_size) for pair in report.pairs[:_TABLE_ROWS]
        ),
    )


def _heat_map(found: Sequence[PairSharing], page_size: int) -> HeatMap:
    chosen = _in_largest_pairs(found)
    shared = _shared_pages(chosen, found)
    names = _similar_adjacent(chosen, shared)
    largest = max(shared.values())

    def cell(name: str, other: str) -> Cell:
        pages = shared.get((name, other), 0)
        return Cell(other, pages * page_size, max(-(-pages * _STEPS // largest), 1) if pages else 0)

    labelled = len(names) <= _LABELLED_CELLS_GUESTS
    return HeatMap(
        rows=tuple(MapRow(name, tuple(cell(name, other) for other in names[:at])) for at, name in enumerate(names)),
        cell_width=min(_CELLS_WIDTH / len(names), _LABELLED_CELL_WIDTH if labelled else _CELL_WIDTH),
        cell_height=_LABELLED_CELL_HEIGHT if labelled else _CELL_HEIGHT,
        labelled=labelled,
        bounds=tuple(largest * page_size * step // _STEPS for step in range(1, _STEPS + 1)),
    )


def _in_largest_pairs(ordered: Sequence[PairSharing]) -> list[str]:
    """The guests in the largest pairs, at most `_MAX_MAP_GUESTS`. `ordered` begins with the largest pair."""
    chosen: dict[str, None] = {}
    for pair in ordered:
        new = [name for name in pair.domains if name not in chosen]
        if len(chosen) + len(new) <= _MAX_MAP_GUESTS:
            chosen.update(dict.fromkeys(new))
        if len(chosen) == _MAX_MAP_GUESTS:
            break
    return list(chosen)


def _shared_pages(names: Sequence[str], found: Sequence[PairSharing]) -> dict[tuple[str, str], int]:
    """The shared pages of each pair among `names`, in either order."""
    chosen = set(names)
    shared = {}
    for pair in found:
        a, b = pair.domains
        if a in chosen and b in chosen:
            shared[a, b] = shared[b, a] = pair.inter_sharing_pages
    return shared


def _similar_adjacent(names: Sequence[str], shared: Mapping[tuple[str, str], int]) -> list[str]:
    """Order `names` so that each is followed by the one that shares most with it: similar guests form triangles."""
    left = list(names)
    ordered = [left.pop(0)]
    while left:
        last = ordered[-1]
        ordered.append(max(left, key=lambda name: shared.get((last, name), 0)))
        left.remove(ordered[-1])
    return ordered
