from __future__ import annotations

import fcntl
import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from samepaged.drift import ledger as module
from samepaged.drift.ledger import FILE_NAME, PauseLedger
from samepaged.errors import GuestError, Reason
from tests.support.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

GUEST = "3f0c1e0a-0000-0000-0000-000000000001"
OTHER = "3f0c1e0a-0000-0000-0000-000000000002"
DEFAULT = 0.0005
# A time more than a window after the boot.
START = 50_000.0


def test_pauses_are_summed_for_each_guest() -> None:
    clock = Clock(START)
    ledger = PauseLedger(clock=clock)
    ledger.add(GUEST, 0.5)
    ledger.add(GUEST, 0.4)
    ledger.add(OTHER, 0.1)
    assert ledger.paused_time(GUEST).total_seconds == pytest.approx(0.9)
    assert ledger.paused_time(GUEST).ratio == pytest.approx(0.9 / 3600)
    clock.now += 3700
    assert ledger.paused_time(GUEST).total_seconds == pytest.approx(0.9)
    assert ledger.paused_time(GUEST).ratio == 0


def test_the_account_refuses_until_the_hour_has_passed() -> None:
    clock = Clock(START)
    ledger = PauseLedger(clock=clock)
    account = ledger.account(GUEST, DEFAULT)
    assert account.check(1.8) == pytest.approx(1.8)
    account.add(1.5)
    assert account.check(0.3) == pytest.approx(0.3)
    with pytest.raises(GuestError, match=r"and 300 ms remain; the next scan fits in 61 min") as caught:
        account.check(0.4)
    assert caught.value.reason is Reason.DRIFT_BUDGET
    clock.now += account.seconds_until(0.4) + 1e-3
    assert account.check(0.4) == pytest.approx(1.8)


def test_an_empty_account_refuses_any_pause() -> None:
    account = PauseLedger(clock=Clock(START)).account(GUEST, DEFAULT)
    account.add(2)
    with pytest.raises(GuestError):
        account.check(0)


def test_a_ratio_of_one_sets_no_bound() -> None:
    account = PauseLedger(clock=Clock(START)).account(GUEST, 1)
    account.add(4000)
    account.check(1e9)
    assert account.ledger.paused_time(GUEST).ratio == 1


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    clock = Clock(START)
    daemon, command = PauseLedger(tmp_path, clock), PauseLedger(tmp_path, clock)
    daemon.add(GUEST, 1.0)
    command.add(GUEST, 0.5)
    daemon.add(OTHER, 0.2)
    successor = PauseLedger(tmp_path, clock)
    for ledger in (daemon, command, successor):
        ledger.refresh()
        assert ledger.remaining_seconds(GUEST, 1.8) == pytest.approx(0.3)
    assert daemon.paused_time(GUEST).total_seconds == 1.0
    assert successor.paused_time(GUEST).total_seconds == 0
    assert successor.paused_time(GUEST).ratio == pytest.approx(1.5 / 3600)


def test_pauses_from_before_the_directory_are_shared(tmp_path: Path) -> None:
    clock = Clock(START)
    ledger = PauseLedger(clock=clock)
    ledger.add(GUEST, 1.0)
    ledger.set_directory(tmp_path)
    ledger.add(GUEST, 0.1)
    assert PauseLedger(tmp_path, clock).remaining_seconds(GUEST, 1.8) == pytest.approx(0.7)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10_000, b"\xff", bytes(100)])
def test_a_damaged_file_is_one_warning(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        ledger = PauseLedger(tmp_path, Clock(START))
        ledger.refresh()
        ledger.add(GUEST, 1.0)
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text
    assert PauseLedger(tmp_path, Clock(START)).remaining_seconds(GUEST, 1.8) == pytest.approx(0.8)


def test_a_file_too_large_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    PauseLedger(tmp_path, Clock(START)).add(GUEST, 1.0)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    assert PauseLedger(tmp_path, Clock(START)).remaining_seconds(GUEST, 1.8) == 1.8
    assert "too large" in caplog.text


def test_a_directory_that_is_gone_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = PauseLedger(tmp_path / "gone", Clock(START))
    ledger.add(GUEST, 1.0)
    ledger.add(GUEST, 0.1)
    assert ledger.remaining_seconds(GUEST, 1.8) == pytest.approx(0.7)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_hanging_lock_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 0.02)
    ledger = PauseLedger(tmp_path, Clock(START))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        ledger.add(GUEST, 1.0)
    finally:
        os.close(descriptor)
    assert "pause ledger not written" in caplog.text
    ledger.add(GUEST, 0.1)
    assert PauseLedger(tmp_path, Clock(START)).remaining_seconds(GUEST, 1.8) == pytest.approx(0.7)


def test_threads_lose_no_pause(tmp_path: Path) -> None:
    ledger = PauseLedger(tmp_path, Clock(START))

    def work() -> None:
        for _ in range(50):
            ledger.add(GUEST, 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.paused_time(GUEST).total_seconds == pytest.approx(0.2)
    assert PauseLedger(tmp_path, Clock(START)).remaining_seconds(GUEST, 1.8) == pytest.approx(1.6)


def test_fifo_in_place_of_file_does_not_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pauses.json")
    ledger = PauseLedger(tmp_path)
    ledger.add("u-1", 0.5)
    assert ledger.paused_time("u-1").total_seconds == pytest.approx(0.5)


def test_a_last_slice_fits_in_spite_of_rounding() -> None:
    account = PauseLedger().account("u-1", 0.0005)
    overhead = 0.0107
    account.check(overhead + (account.remaining_seconds() - overhead) + 1e-12)
