"""Threads on a host that has no room for one."""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING

import pytest

from samepaged import threads
from samepaged.errors import SamepagedError
from samepaged.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_worker_ends_after_its_target() -> None:
    done, go = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(10)
        done.set()

    worker = Worker(work)
    assert not worker.is_alive()
    worker.start(SamepagedError)
    assert worker.is_alive()
    go.set()
    worker.join(10)
    assert done.is_set()
    assert not worker.is_alive()


def test_unstarted_worker_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a thread has no memory for its first object: the call that starts it has succeeded."""
    late: list[Callable[[], None]] = []
    monkeypatch.setattr(_thread, "start_new_thread", lambda function, _: late.append(function))
    monkeypatch.setattr(threads, "START_SECONDS", 0.01)
    done: list[int] = []
    worker = Worker(lambda: done.append(1))
    with pytest.raises(SamepagedError, match="did not run; free memory"):
        worker.start(SamepagedError)
    assert not worker.is_alive()
    for begin in late:
        begin()
    assert done == []


def test_worker_without_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    worker = Worker(lambda: None)
    with pytest.raises(SamepagedError, match="can't start new thread"):
        worker.start(SamepagedError)
    assert not worker.is_alive()
