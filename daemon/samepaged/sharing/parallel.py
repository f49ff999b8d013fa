"""Work on a few threads: numpy releases the GIL while it sorts, compares and copies.

If another thread cannot be started (pids.max of a control group, `ulimit -u`), the started ones and the calling thread
do all of the work.
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

# Operations other than sorting hold the GIL, so more threads than this only wait for each other.
MAX_THREADS: Final = 8


def thread_count(threads: int | None) -> int:
    """`threads` if given, else one for each processor that this process may use, up to 8. Raises ValueError below 1."""
    if threads is None:
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    if threads < 1:
        raise ValueError(f"{threads} is not a valid number of threads; give at least 1")
    return threads


def run_in_threads(work: Callable[[], None], threads: int) -> None:
    """Call `work` once in each of up to `threads` threads, including the calling thread, and wait for the started ones.
    Raises the exception of the calling thread's call, or else the first exception of the other threads.

    threading.Thread is not used, because its start() waits forever for a thread that runs out of memory at its start.
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
    """Return the results of `work` for each item, in the order of `items`. If `work` raises an exception, the remaining
    items are not started, and the exception is raised.
    """
    todo = list(items)
    results: dict[int, Result] = {}
    following = iter(range(len(todo)))  # next() is atomic across threads
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
