from __future__ import annotations

import os
import signal
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from samepaged.backoff import Backoff
from samepaged.service.schedule import Schedule
from samepaged.service.signals import Signals


@given(st.floats(1, 1e6), st.floats(0, 1), st.floats(0, 1e9))
def test_next_scan_is_within_jitter(interval: float, jitter: float, now: float) -> None:
    schedule = Schedule(interval, jitter)
    schedule.started(now)
    wait = schedule.due - now
    assert interval * (1 - jitter) - 1e-3 <= wait <= interval * (1 + jitter) + 1e-3


def test_first_scan_is_immediate() -> None:
    assert Schedule(900, 0.1).due == 0


def test_changed_interval_takes_effect() -> None:
    schedule = Schedule(1000, 0)
    schedule.started(0)
    schedule.change(10, 0, 100)
    assert schedule.due == 110
    schedule.change(5000, 0, 105)
    assert schedule.due == 110


def test_backoff_doubles_until_success() -> None:
    backoff = Backoff(first=1, longest=5)
    assert [backoff.failed() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.succeeded()
    assert backoff.failed() == 1


def test_stop_signal_ends_a_wait() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        signals.wait(30)
        assert time.monotonic() - began < 10
        assert signals.stopping


def test_reload_signal_is_taken_once() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        signals.wait(30)
        assert signals.take_reload()
        assert not signals.take_reload()
        assert not signals.stopping


def test_thread_can_end_a_wait() -> None:
    with Signals() as signals:
        threading.Timer(0.05, signals.wake).start()
        began = time.monotonic()
        signals.wait(30)
        assert time.monotonic() - began < 10


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with Signals():
        assert signal.getsignal(signal.SIGHUP) != before
    assert signal.getsignal(signal.SIGHUP) == before
