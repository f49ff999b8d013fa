"""Text in columns of a terminal: width, elision, wrapping, tables."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from samepaged.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

__all__ = ["aligned", "columns", "elided", "wrapped"]

_ELLIPSIS = "..."


def columns(text: str) -> int:
    """The columns that `text` takes on a terminal: two for a wide East Asian character, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(c) for c in text)


def elided(text: str, width: int) -> str:
    """`text`, or its start and end with dots between, in at most `width` columns; below 4, its start only."""
    if columns(text) <= width:
        return text
    room = width - len(_ELLIPSIS)
    if room < 1:
        return _fitting(text, width)
    tail = _fitting(text[::-1], room // 2)[::-1]
    head = _fitting(text, room - columns(tail))
    return head + _ELLIPSIS + tail


def wrapped(text: str, width: int, *, first: str = "  ", rest: str = "    ") -> list[str]:
    """`text` in lines of at most `width` columns, the first and the others indented by these. Lines are broken at
    spaces; a word longer than a line is broken at the width.
    """
    lines = [first]
    empty = True
    for word in text.split():
        left = word
        while left:
            gap = "" if empty else " "
            room = width - columns(lines[-1] + gap)
            if columns(left) > room and not empty:
                lines.append(rest)
                empty = True
                continue
            part = _fitting(left, room) or left[0]
            lines[-1] += gap + part
            left = left[len(part) :]
            empty = False
    return lines


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Rows as lines, printable, in columns two spaces apart; those of these numbers are aligned to the right."""
    lines = [[printable(cell) for cell in row] for row in rows]
    widths = [max(columns(line[at]) for line in lines) for at in range(len(lines[0]) if lines else 0)]
    for line in lines:
        cells = []
        for at, cell in enumerate(line):
            space = " " * (widths[at] - columns(cell))
            cells.append(space + cell if at in right else cell + space)
        yield "  ".join(cells).rstrip()


def _fitting(text: str, width: int) -> str:
    used = 0
    for at, c in enumerate(text):
        used += _columns_of(c)
        if used > width:
            return text[:at]
    return text


def _columns_of(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1
