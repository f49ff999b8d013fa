from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING

import pytest

from samepaged.sharing.parallel import map_in_threads, run_in_threads

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=[0, 1, 2, 99])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of threads that can be started; the next start fails with Python's error."""
    room: int = request.param
    started = 0
    start: Callable[..., int] = _thread.start_new_thread

    def bounded(function: Callable[[], None], arguments: tuple[()]) -> int:
        nonlocal started
        if started >= room:
            raise RuntimeError("can't start new thread")
        started += 1
        return start(function, arguments)

    monkeypatch.setattr(_thread, "start_new_thread", bounded)
    return room


def test_unstarted_thread_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a thread ran out of memory for its first object after the call that starts it succeeded."""
    late: list[Callable[[], None]] = []
    monkeypatch.setattr(_thread, "start_new_thread", lambda function, _: late.append(function))
    done: list[int] = []
    run_in_threads(lambda: done.append(1), 3)
    assert done == [1]
    for begin in late:
        begin()
    assert done == [1]


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_items_are_mapped_once_in_order(room: int, count: int) -> None:
    done: list[int] = []

    def work(item: int) -> int:
        done.append(item)
        return item * item

    assert map_in_threads(work, range(count), 4) == [item * item for item in range(count)]
    assert sorted(done) == list(range(count))


def test_work_errors_are_raised(room: int) -> None:
    def work(item: int) -> int:
        return 1 // (item - 50)

    with pytest.raises(ZeroDivisionError):
        map_in_threads(work, range(100), 4)


def test_failure_stops_further_items() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        raise LookupError

    with pytest.raises(LookupError):
        map_in_threads(work, range(1000), 2)
    assert len(done) <= 2


def test_work_runs_once_per_thread(room: int) -> None:
    threads: list[int] = []
    all_there = threading.Barrier(min(room + 1, 3))

    def work() -> None:
        threads.append(threading.get_ident())
        all_there.wait(10)

    run_in_threads(work, 3)
    assert len(set(threads)) == min(room + 1, 3)
    assert threading.get_ident() in threads


def test_thread_failure_is_raised_at_the_end() -> None:
    ended = threading.Event()

    def work() -> None:
        if threading.current_thread() is threading.main_thread():
            ended.wait(10)
        else:
            ended.set()
            raise LookupError("in the other")

    with pytest.raises(LookupError, match="in the other"):
        run_in_threads(work, 2)
