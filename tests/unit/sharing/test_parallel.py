from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from samepaged.sharing.parallel import in_threads, together

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=[0, 1, 2, 99])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads may be started beside those that there are; with the next one, start() fails as Python's does."""
    room: int = request.param
    started = 0
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def bounded(thread: threading.Thread) -> None:
        nonlocal started
        if started >= room:
            raise RuntimeError("can't start new thread")
        started += 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", bounded)
    return room


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_each_item_is_done_once_and_in_order_however_many_threads_there_are(room: int, count: int) -> None:
    done: list[int] = []

    def work(item: int) -> int:
        done.append(item)
        return item * item

    assert in_threads(work, range(count), 4) == [item * item for item in range(count)]
    assert sorted(done) == list(range(count))


def test_what_the_work_raises_is_raised_here(room: int) -> None:
    def work(item: int) -> int:
        return 1 // (item - 50)

    with pytest.raises(ZeroDivisionError):
        in_threads(work, range(100), 4)


def test_no_item_is_begun_after_one_has_failed() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        raise LookupError

    with pytest.raises(LookupError):
        in_threads(work, range(1000), 2)
    assert len(done) <= 2


def test_work_is_called_once_in_each_thread_that_there_is(room: int) -> None:
    threads: list[str] = []
    together(lambda: threads.append(threading.current_thread().name), 3, "mill")
    assert len(threads) == min(room + 1, 3)
    assert threading.main_thread().name in threads


def test_a_failure_of_another_thread_is_raised_when_all_have_ended() -> None:
    ended = threading.Event()

    def work() -> None:
        if threading.current_thread() is threading.main_thread():
            ended.wait(10)
        else:
            ended.set()
            raise LookupError("in the other")

    with pytest.raises(LookupError, match="in the other"):
        together(work, 2)
