"""Work spread over a few threads: numpy gives up the interpreter's lock while it sorts, compares and copies."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["in_threads", "thread_count"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# What is not sorting holds the lock, so more threads than this only wait for each other.
MOST_THREADS: Final = 8


def thread_count(threads: int | None) -> int:
    """`threads` if given (at least 1), else one for each processor that this process may use, up to 8."""
    if threads is None:
        return min(len(os.sched_getaffinity(0)), MOST_THREADS)
    if threads < 1:
        raise ValueError(f"{threads} threads cannot do anything; give at least 1")
    return threads


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None) -> list[Result]:
    """`work` of each item, in the order of `items`. What `work` raises is raised here."""
    with ThreadPoolExecutor(thread_count(threads), thread_name_prefix="sharing") as pool:
        return list(pool.map(work, items))
