"""Recording of traces beside the scans: a slow disk loses traces, and never delays a scan without bound."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from samepaged.config import TracesConfig
from samepaged.errors import TraceError
from samepaged.scan import trace_recorder as module
from samepaged.scan.snapshot import GuestAttribution
from samepaged.scan.trace_recorder import Record, TraceRecorder
from samepaged.sharing import Contents, PageDigest
from samepaged.traces import seed_id, survey
from samepaged.traces.attribution_file import read_beside_traces
from tests.support.results import STARTED, answers, guest_scan
from tests.support.waiting import wait_for


def record(name: str = "web-1") -> Record:
    digest = PageDigest(np.array([0, 1, 2, 2, 9, 9, 10], dtype=np.uint64), 4096)
    return Record.of(digest, guest_scan(name), {8192: Contents.of(digest)}, seed=7)


def wait(recorder: TraceRecorder, count: int) -> None:
    wait_for(lambda: recorder.stats.written + recorder.stats.lost >= count, every=0.005)


def never() -> bool:
    return False


def test_trace_has_scan_and_metadata(tmp_path: Path) -> None:
    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path, host="kvm-1"), never)
    recorder.offer(record())
    recorder.close()
    ((about,),) = (file.traces for file in survey(tmp_path))
    assert (about.host, about.domain, about.scanned_at, about.seed) == ("kvm-1", "web-1", STARTED, seed_id(7))
    assert (about.absent_pages, about.swapped_pages, about.zero_pages) == (1, 1, 2)
    assert (about.hashed_pages, about.distinct_pages) == (3, 2)
    (counts,) = about.by_page_size
    assert (counts.page_size, counts.memory_pages, counts.duplicate_pages) == (8192, 7, 1)
    assert about.host_memory is not None
    assert about.host_memory >= 2**28


def test_attribution_is_beside_the_trace(tmp_path: Path) -> None:
    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path, host="kvm-1"), never)
    recorder.offer(record())
    recorder.offer(GuestAttribution(answers("web-1"), STARTED))
    recorder.close()
    ((file, found),) = read_beside_traces(survey(tmp_path))
    assert (file.traces[0].domain, found) == ("web-1", answers("web-1"))
    assert (recorder.stats.written, recorder.stats.lost) == (1, 0)


def test_lost_trace_has_no_attribution(tmp_path: Path) -> None:
    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path, host="kvm-1"), never)
    recorder.offer(GuestAttribution(answers("web-1"), STARTED))
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_disabled_traces_write_nothing(tmp_path: Path) -> None:
    recorder = TraceRecorder(TracesConfig(enabled=False, directory=tmp_path / "traces"), never)
    recorder.offer(record())
    recorder.round_ended()
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_hanging_disk_delays_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(module, "write_trace", lambda *_: hanging.wait(60))
    monkeypatch.setattr(module, "MAX_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.monotonic())
        return False

    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path), stop)
    for number in range(module.MAX_WAITING_RECORDS + 1):  # one is being written
        recorder.offer(record(f"web-{number}"))
    asked.clear()
    recorder.offer(record("late"))
    assert len(asked) > 2  # the watchdog is fed meanwhile
    assert recorder.stats.lost == 1
    asked.clear()
    for _ in range(3):
        recorder.offer(record("later"))
    assert len(asked) == 3  # a round waits once, and not for each guest
    assert recorder.stats.lost == 4
    recorder.round_ended()
    asked.clear()
    recorder.offer(record("of the next round"))
    assert len(asked) > 2
    assert "is too slow; use a faster one" in caplog.text
    hanging.set()
    wait(recorder, module.MAX_WAITING_RECORDS + 6)
    assert recorder.stats.written == module.MAX_WAITING_RECORDS + 1


def test_stop_does_not_wait_for_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(module, "write_trace", lambda *_: hanging.wait(60))
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    stopping: list[bool] = []
    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path), lambda: bool(stopping))
    for _ in range(module.MAX_WAITING_RECORDS + 1):
        recorder.offer(record())
    stopping.append(True)
    began = time.monotonic()
    recorder.offer(record())
    recorder.close()
    assert time.monotonic() - began < 10
    hanging.set()
    wait(recorder, module.MAX_WAITING_RECORDS + 1)  # the thread leaves nothing to do for the next test


@pytest.mark.parametrize("error", [TraceError("/traces/x", "cannot be written", "make room"), ZeroDivisionError()])
def test_failed_trace_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.WARNING)
    written: list[str] = []

    def write(one: Record, *_: object) -> None:
        if one.scan.name != "good":
            raise error
        written.append(one.scan.name)

    monkeypatch.setattr(module, "write_trace", write)
    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path), never)
    for name in ("bad", "worse", "good", "bad"):
        recorder.offer(record(name))
    wait(recorder, 4)
    assert (recorder.stats.written, recorder.stats.lost, written) == (1, 3, ["good"])
    # Once for each row of failures.
    assert caplog.text.count("trace not written ") == 2


def test_old_traces_are_pruned_each_round(tmp_path: Path) -> None:
    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path, max_age=3600.0), never)
    recorder.offer(record())  # of years ago
    recorder.round_ended()
    recorder.close()
    assert recorder.stats.written == 1
    assert recorder.stats.stored_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_failed_pruning_loses_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1, "Not permitted")))
    recorder = TraceRecorder(TracesConfig(enabled=True, directory=tmp_path, max_age=3600.0), never)
    recorder.offer(record())
    recorder.round_ended()
    recorder.close()
    assert (recorder.stats.written, recorder.stats.lost) == (1, 0)
    assert recorder.stats.stored_bytes > 0
    assert "old traces not removed " in caplog.text
