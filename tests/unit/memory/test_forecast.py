"""Forecasts of scans, without reading memory."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.memory import softdirty
from samepaged.memory.capture import forecast
from samepaged.memory.modes import FallbackReason
from samepaged.memory.process_reader import forecast_scan
from samepaged.memory.reader import GuestMemory
from samepaged.memory.scan_state import ScanState
from tests.support.scan_request import scan_request

if TYPE_CHECKING:
    from samepaged.memory.process_ram import ProcessRam

OBSTACLE = FallbackReason("shared", "its memory is shared")
# At the assumed throughput, 1 GiB takes 0.73 s.
GIB = (1 << 30) // PAGE_SIZE


class Backed:
    """A reader of a guest of 4 GiB with `backed` backed pages."""

    pid = 1
    mappings = ()
    pages = 4 * GIB

    def __init__(self, backed: int) -> None:
        self.backed = backed

    def count_backed(self) -> int:
        return self.backed


def guest(pid: int, pages: int) -> GuestMemory:
    return GuestMemory(pid, (pages * PAGE_SIZE,), paused=False, vfio=False)


def foreseen(
    monkeypatch: pytest.MonkeyPatch,
    backed: int,
    obstacle: FallbackReason | None,
    *,
    paused: bool = False,
    **more: Any,
) -> tuple[str, float, str | None]:
    monkeypatch.setattr(softdirty, "obstacle", lambda *_, **__: obstacle)
    reader = cast("ProcessRam", Backed(backed))
    guest = GuestMemory(1, (), paused=paused, vfio=False)
    found = forecast_scan(reader, guest, scan_request(**more), ScanState(0))
    assert (found.backed, found.reader) == (backed * PAGE_SIZE, "process")
    return found.mode, found.pause, None if found.obstacle is None else found.obstacle.code


def test_small_guest_uses_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    mode, pause, obstacle = foreseen(monkeypatch, GIB // 64, OBSTACLE)
    assert (mode, obstacle) == ("snapshot", None)
    assert 0.01 < pause < 0.05


def test_large_guest_uses_precopy(monkeypatch: pytest.MonkeyPatch) -> None:
    mode, pause, obstacle = foreseen(monkeypatch, GIB, None)
    assert (mode, obstacle) == ("precopy", None)
    assert 0.01 < pause < 0.25


def test_oversized_guest_is_sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    mode, pause, obstacle = foreseen(monkeypatch, GIB, None, max_pause=0.02)
    assert (mode, obstacle) == ("sliced", "busy")
    assert pause == pytest.approx(0.02)  # suspending, and half of max_pause


def test_forecast_has_precopy_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreseen(monkeypatch, GIB, OBSTACLE)[::2] == ("sliced", "shared")
    assert foreseen(monkeypatch, GIB // 8, OBSTACLE)[::2] == ("snapshot", "shared")
    assert foreseen(monkeypatch, GIB // 64, OBSTACLE, mode="precopy")[::2] == ("snapshot", "shared")


def test_requested_mode_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    mode, pause, obstacle = foreseen(monkeypatch, GIB, OBSTACLE, mode="snapshot")
    assert (mode, obstacle) == ("snapshot", None)
    assert pause == pytest.approx(0.726, rel=0.01)
    assert foreseen(monkeypatch, GIB, OBSTACLE, mode="live") == ("live", 0.0, None)


def test_paused_guest_has_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreseen(monkeypatch, GIB, OBSTACLE, paused=True) == ("snapshot", 0.0, None)


def ram(pages: int) -> mmap.mmap:
    """Memory of this process that stands for guest RAM in QEMU: of a unique size, and not inherited by children."""
    area = mmap.mmap(-1, pages * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_DONTFORK)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return area


def test_forecast_does_not_touch_process() -> None:
    with ram(1237) as area:
        for page in range(100):
            area[page * PAGE_SIZE] = 1
        for _ in range(2):  # the first forecast must not back a page that the second would count
            found = forecast(guest(os.getpid(), 1237), scan_request(), ScanState(0))
            assert (found.mode, found.reader, found.backed) == ("snapshot", "process", 100 * PAGE_SIZE)
            assert [mapping.size for mapping in found.mappings] == [1237 * PAGE_SIZE]


def test_dump_replaces_unlocatable_memory() -> None:
    lost = guest(os.getpid(), 4999)
    found = forecast(lost, scan_request(), ScanState(0))
    assert (found.mode, found.reader, found.backed) == ("snapshot", "dump", None)
    assert found.pause == found.snapshot > 0
    assert found.obstacle is not None
    assert found.obstacle.code == "layout"
    for asked in (scan_request(reader="process"), scan_request(mode="live"), scan_request(max_pause=0.001)):
        with pytest.raises(GuestError) as caught:
            forecast(lost, asked, ScanState(0))
        assert caught.value.reason is Reason.LAYOUT


def test_dump_needs_no_process() -> None:
    found = forecast(guest(-1, GIB), scan_request("snapshot", "dump"), ScanState(0))
    assert found.pause == pytest.approx(1.08, rel=0.01)
    with pytest.raises(GuestError, match="mode live"):
        forecast(guest(-1, GIB), scan_request("live", "dump"), ScanState(0))


def test_unreadable_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("samepaged.memory.process_ram.copy_process", refuse)
    with ram(1237), pytest.raises(GuestError) as caught:
        forecast(guest(os.getpid(), 1237), scan_request(), ScanState(0))
    assert caught.value.reason is Reason.NO_PERMISSION
