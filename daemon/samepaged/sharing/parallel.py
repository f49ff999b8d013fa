"""Work spread over a few threads: numpy gives up the interpreter's lock while it sorts, compares and copies.

Where a host has no room for another thread (pids.max of a control group, `ulimit -u`), those that there are do it all,
the calling one among them.
"""

from __future__ import annotations

import _thread
import os
import threading
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["map_in_threads", "run_in_threads", "thread_count"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# What is not sorting holds the lock, so more threads than this only wait for each other.
MAX_THREADS: Final = 8


def thread_count(threads: int | None) -> int:
    """`threads` if given (at least 1), else one for each processor that this process may use, up to 8."""
    if threads is None:
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    if threads < 1:
        raise ValueError(f"{threads} is not a valid number of threads; give at least 1")
    return threads


def run_in_threads(work: Callable[[], None], threads: int) -> None:
    """Call `work` once in each of up to `threads` threads, the calling one among them, and wait for those that have
    begun. Raises what the calling thread's call raises, or else what the first of the others that failed did.

    Not by threading.Thread: its start() waits for ever for a thread that runs out of memory before it begins.
    """
    failures: list[BaseException] = []
    changed = threading.Condition()
    running, closed = 0, False

    def help_out() -> None:
        nonlocal running
        with changed:
            if closed:
                return
            running += 1
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            failures.append(error)
        finally:
            with changed:
                running -= 1
                changed.notify_all()

    try:
        for _ in range(1, threads):
            try:
                _thread.start_new_thread(help_out, ())
            except RuntimeError:  # "can't start new thread"
                break
        work()
    finally:
        with changed:
            closed = True
            changed.wait_for(lambda: not running)
    if failures:
        raise failures[0]


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None) -> list[Result]:
    """`work` of each item, in the order of `items`. What `work` raises is raised here, and no other item begun."""
    todo = list(items)
    results: dict[int, Result] = {}
    following = iter(range(len(todo)))  # one step of it is one step for all threads
    failed = threading.Event()

    def some() -> None:
        try:
            for index in following:
                if failed.is_set():
                    return
                results[index] = work(todo[index])
        except BaseException:
            failed.set()
            raise

    run_in_threads(some, min(thread_count(threads), len(todo)))
    return [results[index] for index in range(len(todo))]
