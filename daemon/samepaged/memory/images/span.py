"""Location of a guest's memory in a file: spans of guest-physical addresses, cut to whole pages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Span", "damaged", "whole_pages"]

REMEDY: Final = "repeat the dump or the copy"


@dataclass(frozen=True, slots=True)
class Span:
    """`size` bytes of memory from guest-physical `address` on, at `offset` in the file; None if the file does not
    contain them.
    """

    address: int
    size: int
    offset: int | None

    @property
    def end(self) -> int:
        """The address after its last byte."""
        return self.address + self.size


def damaged(path: Path, problem: str) -> TraceError:
    """The error for a damaged file."""
    return TraceError(path, problem, REMEDY)


def whole_pages(path: Path, spans: Iterable[Span], file_size: int) -> tuple[tuple[Span, ...], int]:
    """The spans in the order of their addresses, each cut to its whole pages, and the number of bytes left out. A page
    that is only partly known RAM is not a page of RAM.

    Raises TraceError if two spans overlap, in memory or in the file, or if the file ends before a span does.
    """
    ordered = sorted(spans, key=lambda span: (span.address, span.size))
    for before, span in pairwise(ordered):
        if span.address < before.end:
            raise damaged(path, f"has overlapping memory ranges at address {span.address:#x}")
    held = sorted((span.offset, span.size) for span in ordered if span.offset is not None)
    for (offset, size), (following, _) in pairwise(held):
        if following < offset + size:
            raise damaged(path, f"has memory ranges that overlap in the file at byte {following}")
    if held and sum(held[-1]) > file_size:
        raise damaged(path, f"ends early, after {file_size} of {sum(held[-1])} bytes")
    cut = tuple(whole for span in _joined(ordered) if (whole := _cut(span)).size > 0)
    return cut, sum(span.size for span in ordered) - sum(span.size for span in cut)


def _joined(ordered: list[Span]) -> list[Span]:
    """Join spans that are adjacent in memory and in the file, because a page may be part of both."""
    joined: list[Span] = []
    for span in ordered:
        before = joined[-1] if joined else None
        if before is not None and before.end == span.address and _behind(before) == span.offset:
            joined[-1] = Span(before.address, before.size + span.size, before.offset)
        else:
            joined.append(span)
    return joined


def _behind(span: Span) -> int | None:
    return None if span.offset is None else span.offset + span.size


def _cut(span: Span) -> Span:
    start, end = -(-span.address // PAGE_SIZE) * PAGE_SIZE, span.end // PAGE_SIZE * PAGE_SIZE
    return Span(start, end - start, None if span.offset is None else span.offset + start - span.address)
