"""A scan as text for people, and its progress."""

from __future__ import annotations

import heapq
import os
import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Self, TextIO

from samepaged.drift.window import WINDOW_SECONDS
from samepaged.escape import printable
from samepaged.formatting import ppm, seconds, size
from samepaged.text_layout import columns, elided, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from samepaged.drift.ledger import PausedTime
    from samepaged.scan.results import GuestScan, HostScan

__all__ = ["Progress", "table"]

_HEADINGS: Final = (
    ("", "", "", "", "", "shared", "", ""),
    ("", "", "zero+", "", "self-", "with", "", "longest"),
    ("guest", "memory", "absent", "distinct", "sharing", "others", "mode", "pause"),
)
_LEFT: Final = (0, 6)  # the text columns: name and mode
_MODE_WIDTH: Final = 8
_MARK: Final = "*"  # guest with a fallback from the preferred mode or reader
_DEVICE_MARK: Final = "+"  # guest to which a passed-through device may have written during the scan
_DEVICE_NOTE: Final = "a passed-through device may have written during the scan; not of one instant"
_MAX_PAIRS: Final = 5
_MAX_PAUSED_GUESTS: Final = 3
_MIN_WIDTH: Final = 72


def table(scan: HostScan, width: int = 80, paused: Mapping[str, PausedTime] | None = None) -> str:
    """Return `scan` as lines of at most `width` columns (at least 72), without a final newline.

    The parts: one row per guest, the totals, the guests with the longest suspension in the last hour (from `paused`),
    page sizes and groups if there are several, the largest pairs, fallbacks with their reasons (marked in the mode
    column), the mark of guests to which a device may have written, and skipped guests.
    """
    width = max(width, _MIN_WIDTH)
    parts = (
        _guests(scan, width),
        _totals(scan),
        _paused(paused or {}, width),
        _page_sizes(scan),
        _groups(scan, width),
        _pairs(scan, width),
        _fallbacks(scan, width),
        _device_writes(scan),
        _skipped(scan, width),
    )
    return "\n\n".join("\n".join(part) for lines in parts if (part := list(lines)))


def _guests(scan: HostScan, width: int) -> Iterator[str]:
    page = scan.report.page_size
    how = {one.name: one for one in scan.scans}
    rows = [
        (
            printable(guest.name),
            size(guest.memory_pages * page),
            size((guest.zero_pages + guest.absent_pages) * page),
            size(guest.distinct_pages * page),
            size(guest.duplicate_pages * page),
            size(guest.shared_with_others_pages * page),
            _mode(how[guest.name]),
            seconds(how[guest.name].longest_pause_seconds) if how[guest.name].pauses else "-",
        )
        for guest in scan.report.guests
    ]
    if not rows:
        yield "no guests scanned"
        return
    lines = (*_HEADINGS, *rows)
    widths = [max(columns(line[at]) for line in lines) for at in range(len(_HEADINGS[0]))]
    widths[0] = min(widths[0], width - sum(widths[1:]) - len(widths) + 1)
    for name, *cells in lines:
        line = (elided(name, widths[0]), *cells)
        yield " ".join(_padded(cell, widths[at], left=at in _LEFT) for at, cell in enumerate(line)).rstrip()


def _mode(how: GuestScan) -> str:
    marks = ("" if how.fallback_code is None else _MARK) + (_DEVICE_MARK if how.device_writes else "")
    return elided(printable(how.mode), _MODE_WIDTH) + marks


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - columns(text))
    return text + space if left else space + text


def _totals(scan: HostScan) -> Iterator[str]:
    report = scan.report
    if not report.guests:
        return
    memory = sum(guest.memory_pages for guest in (*report.guests, *scan.departed))
    for name, pages in (
        ("memory of the guests", memory),
        ("self-sharing", report.self_sharing_pages),
        ("inter-VM sharing", report.inter_sharing_pages),
        ("total sharing", report.total_sharing_pages),
    ):
        yield f"{name:<20}  {size(pages * report.page_size):>8}{_share(pages, memory)}"
    if (stable := scan.stable) is not None:
        pages, known, of = stable.total_sharing_pages, len(stable.guests), len(report.guests)
        note = f"  for {known} of {of} guests" if known < of else ""
        yield f"{'stable sharing':<20}  {size(pages * stable.page_size):>8}{_share(pages, memory)}{note}"


def _paused(paused: Mapping[str, PausedTime], width: int) -> Iterator[str]:
    worst = heapq.nsmallest(_MAX_PAUSED_GUESTS, paused.items(), key=lambda item: (-item[1].ratio, item[0]))
    if shown := [(name, time) for name, time in worst if time.ratio]:
        yield "suspended  of the last hour  guest"
        for name, time in shown:
            suspended = seconds(time.ratio * WINDOW_SECONDS)
            yield f"{suspended:>9}  {ppm(time.ratio):>16}  {elided(printable(name), width - 29)}"


def _share(pages: int, memory: int) -> str:
    return f"  {pages / memory:6.1%}" if memory else ""


def _page_sizes(scan: HostScan) -> Iterator[str]:
    sizes = scan.by_page_size
    if len(sizes) > 1:
        yield "by page size      self  inter-VM     total"
        for one in sizes:
            own, inter, total = (
                size(pages * one.page_size)
                for pages in (one.self_sharing_pages, one.inter_sharing_pages, one.total_sharing_pages)
            )
            name = size(one.page_size).replace(".00", "")
            share = _share(one.total_sharing_pages, one.memory_pages)
            yield f"{name:>12}  {own:>8}  {inter:>8}  {total:>8}{share}"


def _groups(scan: HostScan, width: int) -> Iterator[str]:
    groups, page = scan.report.groups, scan.report.page_size
    if len(groups) > 1:
        yield "    self  inter-VM  group"
        for group in groups:
            own, inter = size(group.self_sharing_pages * page), size(group.inter_sharing_pages * page)
            yield f"{own:>8}  {inter:>8}  {elided(printable(group.name), width - 20)}"


def _pairs(scan: HostScan, width: int) -> Iterator[str]:
    pairs = heapq.nlargest(_MAX_PAIRS, scan.report.pairs, key=attrgetter("inter_sharing_pages"))
    if shown := [pair for pair in pairs if pair.inter_sharing_pages]:
        yield "inter-VM  largest pairs"
        room = width - 13
        for pair in shown:
            a, b = map(printable, pair.domains)
            a = elided(a, max(room // 2, room - columns(b)))
            b = elided(b, room - columns(a))
            yield f"{size(pair.inter_sharing_pages * scan.report.page_size):>8}  {a} + {b}"


def _fallbacks(scan: HostScan, width: int) -> Iterator[str]:
    # A limit of the host's kernel affects all guests: each reason is printed once.
    names: dict[tuple[str, str], list[str]] = {}
    for one in scan.scans:
        if one.fallback_code is not None:
            names.setdefault((one.fallback_code, one.fallback_reason or "unknown reason"), []).append(one.name)
    if names:
        yield f"{_MARK} fallback from the preferred mode or reader"
        for (code, reason), affected in names.items():
            named = ", ".join(elided(printable(name), width - 30) for name in affected)
            if len(affected) == len(scan.scans) > 1:
                named = f"all {len(affected)} guests"
            yield from wrapped(f"{named} ({printable(code)}): {printable(reason)}", width)


def _device_writes(scan: HostScan) -> Iterator[str]:
    if any(one.device_writes for one in scan.scans):
        yield f"{_DEVICE_MARK} {_DEVICE_NOTE}"


def _skipped(scan: HostScan, width: int) -> Iterator[str]:
    if scan.skipped:
        yield "skipped"
        for one in scan.skipped:
            name = elided(printable(one.name), width - 30)
            yield from wrapped(f"{name} ({one.reason.value}): {printable(one.message)}", width)


class Progress:
    """Progress of a scan as one line on a terminal; prints nothing on other streams.

    A context manager that clears the line at exit.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._width = _terminal_width(self._stream)
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw("")

    def show(self, number: int, of: int, name: str) -> None:
        """Show that the scan of guest `number` (from 1) of `of` is running."""
        done = 20 * (number - 1) // max(of, 1)
        bar = "#" * done + "." * (20 - done)
        counted = f"[{bar}] guest {number} of {of}: "
        # The last column stays empty, because some terminals wrap after it.
        room = self._width - 1
        self._draw(elided(counted + elided(printable(name), room - len(counted)), room))

    def _draw(self, line: str) -> None:
        if not self._width or not (line or self._shown):
            return
        wipe = " " * (self._shown - columns(line))
        self._stream.write(f"\r{line}{wipe}" + ("" if line else "\r"))
        self._stream.flush()
        self._shown = columns(line)


def _terminal_width(stream: TextIO) -> int:
    """Return the columns of the terminal behind `stream`, or 0 for other streams."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 0
