"""Calls with a bound: answers, errors, and calls that do not return in time."""

from __future__ import annotations

import threading

import pytest

from samepaged.errors import HypervisorError
from samepaged.hypervisor.libvirt_hypervisor import Calls, CallTimeoutError


def test_results_and_errors_come_back() -> None:
    calls = Calls()
    assert calls.make(lambda: 7, 5) == 7
    with pytest.raises(KeyError, match="x"):
        calls.make(lambda: {"y": 1}["x"], 5)
    calls.close()


def test_one_thread_makes_all_calls() -> None:
    calls = Calls()
    threads = {calls.make(threading.get_ident, 5) for _ in range(20)}
    assert len(threads) <= 2  # a worker may not be idle again yet
    assert threading.get_ident() not in threads
    calls.close()


def test_hanging_call_is_abandoned() -> None:
    calls, release, after = Calls(), threading.Event(), threading.Event()
    with pytest.raises(CallTimeoutError):
        calls.make(release.wait, 0.05, after.set)
    assert calls.unanswered == 1
    assert calls.make(lambda: "next", 5) == "next"
    assert not after.is_set()
    release.set()
    assert after.wait(5)
    assert calls.unanswered == 0
    calls.close()


def test_caller_beats_while_waiting() -> None:
    beats: list[int] = []
    calls, release = Calls(lambda: beats.append(1)), threading.Event()
    with pytest.raises(CallTimeoutError):
        calls.make(release.wait, 0.5)
    assert beats
    release.set()
    calls.close()


def test_without_threads_the_error_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    with pytest.raises(HypervisorError, match="TasksMax"):
        Calls().make(lambda: 7, 5)
