"""A table, before it is printed or put into a report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Table"]


@dataclass(frozen=True, slots=True)
class Table:
    """`key` names the table in file names and links, `figure` is the paper's figure. Cells are single-line text; the
    first `names` columns are names, the others numbers. `note` explains the table, or lists omissions.
    """

    key: str
    figure: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    note: str = ""
