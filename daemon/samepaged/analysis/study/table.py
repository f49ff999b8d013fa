"""A table, before it is printed or put into a report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Table"]


@dataclass(frozen=True, slots=True)
class Table:
    """`key` names it in file names and links, `figure` is the paper's. Cells are text on one line; the first `names`
    columns are names, the others numbers. `note` says how to read it, or what was left out.
    """

    key: str
    figure: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    note: str = ""
