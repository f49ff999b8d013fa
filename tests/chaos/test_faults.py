"""Missing host resources: disk space, a writable disk, a correct clock, processes, descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos.conftest import BYSTANDER, NAMES, RESTLESS, Host
from tests.chaos.faults import Disk, clock, few_descriptors, small_disk, task_group
from tests.support.daemon import Daemon, daemon
from tests.support.processes import GUARD, WEB, Family, wait_for_child
from tests.support.waiting import holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.command import Samepaged

SCANS: Final = RESTLESS.format("mode: snapshot, max_pause: 5s") + f"\nguests: {{exclude: [{BYSTANDER}]}}"
SUCCESS: Final = "samepage_domain_last_scan_success_timestamp_seconds"
SHARING: Final = "samepage_domain_self_sharing_bytes"
DAY: Final = 86_400


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def on(disk: Disk, samepaged: Samepaged) -> None:
    """Have both directories of samepaged's on this disk."""
    samepaged.configure(SCANS)
    text = samepaged.config.read_text()
    for name in ("state", "run"):
        (disk.path / name).mkdir()
        text = text.replace(str(samepaged.root / name), str(disk.path / name))
    samepaged.config.write_text(text)


def known(one: Daemon) -> dict[str, float]:
    """Return the exported sharing metrics of the guests."""
    return {name: value for name in NAMES if (value := one.metric(SHARING, domain=name)) is not None}


def scanned_again(one: Daemon, timeout: float = 60) -> None:
    """Each guest is scanned once more."""
    before = {name: one.metric(SUCCESS, domain=name) for name in NAMES}
    one.wait_until(
        lambda: all(one.metric(SUCCESS, domain=name) != before[name] for name in NAMES), timeout, "scanned again"
    )


def complaints(one: Daemon, since: int) -> list[str]:
    """The warnings and errors in the log from this place on; none of them is a crash."""
    log = one.log[since:]
    assert "Traceback" not in log, log
    return [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line or "CRITICAL" in line]


def complained(one: Daemon, since: int, words: str, again: Callable[[], None] = lambda: None) -> None:
    """Wait until a log line after this position contains the words."""

    def heard() -> bool:
        if any(words in line for line in complaints(one, since)):
            return True
        again()
        return False

    one.wait_until(heard, 30, words)


def nobody_is_suspended(host: Host, seconds: float) -> None:
    assert holds(lambda: host.witness.paused() == [], seconds, every=0.002)


def kill_while_suspended(host: Host, samepaged: Samepaged, one: Daemon, more: dict[str, str]) -> None:
    """Scanner and guard die with a guest suspended: recovery finds their entry, in any writable journal directory."""
    with wait_for_child(one.process.pid, GUARD) as guard:
        host.witness.next_pause(lambda: one.process.poll() is None or pytest.fail(one.log))
        guard.kill()
        one.kill()
    with subprocess.Popen(
        samepaged.command("recover", "--config", str(samepaged.config)), env=dict(os.environ) | more
    ) as it:
        assert host.witness.left_paused(5) == []
        assert it.wait(60) == 0
    assert host.witness.paused() == []


@contextlib.contextmanager
def broken(disk: Disk, how: str) -> Iterator[str]:
    """Make the disk `full` or `read-only`; return the system's error text."""
    (disk.fill if how == "full" else disk.read_only)()
    try:
        yield {"full": "No space left", "read-only": "Read-only"}[how]
    finally:
        (disk.free if how == "full" else disk.writable)()


def test_full_disk_loses_no_guest(host: Host, samepaged: Samepaged, disk: Disk, tmp_path: Path) -> None:
    on(disk, samepaged)
    more = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": ""}
    with daemon(samepaged, more=more) as one:
        one.wait_scans(2)
        before, since = known(one), len(one.log)
        assert set(before) == set(NAMES)
        with broken(disk, "full") as words:
            # again and again: the journal's own block is free between two suspensions
            complained(one, since, words, disk.fill)
            assert known(one).keys() == before.keys()
            scanned_again(one)
        scanned_again(one)
        with broken(disk, "full"):
            scanned_again(one)
            kill_while_suspended(host, samepaged, one, more)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_unwritable_directories_do_not_stop_scans(
    host: Host, samepaged: Samepaged, disk: Disk, tmp_path: Path, how: str
) -> None:
    on(disk, samepaged)
    more = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": ""}
    with broken(disk, how) as words, daemon(samepaged, more=more) as one:
        one.wait(f"{disk.path}/state.*{words}")
        one.wait(f"{disk.path}/run.*{words}")
        one.wait_scans(1)
        scanned_again(one)
        assert complaints(one, 0)
        kill_while_suspended(host, samepaged, one, more)


def test_wall_clock_jumps_change_no_deadline(host: Host, samepaged: Samepaged, tmp_path: Path) -> None:
    wall = clock(tmp_path)
    samepaged.configure(SCANS)
    with daemon(samepaged, more=wall.environment) as one:
        one.wait_scans(1)
        began = time.monotonic()
        one.wait_scans(3)
        usual = time.monotonic() - began
        for ahead in (DAY, -DAY, 20 * 365 * DAY, -int(time.time()), 0):
            host.witness.next_pause()
            wall.set(ahead)
            began = time.monotonic()
            one.wait_scans(3)
            assert time.monotonic() - began < max(15, 4 * usual)
            # exported times follow the current clock
            exported = one.metric(SUCCESS, domain=NAMES[0]) or 0.0
            assert abs(exported - (time.time() + ahead)) < 15
            assert set(known(one)) == set(NAMES)
        assert complaints(one, 0) == []


@pytest.mark.parametrize("room", [0, 1], ids=["no process", "a process without threads"])
def test_no_guard_means_no_suspension(host: Host, samepaged: Samepaged, room: int) -> None:
    samepaged.configure(SCANS)
    with task_group() as group, daemon(samepaged, before=group.before) as one:
        one.wait_scans(2)
        before, since = known(one), len(one.log)
        with (
            wait_for_child(one.process.pid, GUARD) as guard,
            group.failing(room * (group.tasks - guard.held.threads + 1)),
        ):
            guard.kill()
            complained(one, since, "guard")
            # the pause in progress has ended: none follows
            assert host.witness.left_paused(5) == []
            nobody_is_suspended(host, 3)
            assert known(one).keys() == before.keys()
            # and libvirt, which is connected to in a thread
            host.libvirtd.stop(signal.SIGKILL)
            host.libvirtd.start()
            nobody_is_suspended(host, 3)
            assert one.process.poll() is None, one.log
        scanned_again(one)
        assert complaints(one, since)
        wait_for_child(one.process.pid, GUARD).__exit__()


def test_missing_web_process_stops_no_scan(host: Host, samepaged: Samepaged) -> None:
    samepaged.configure(SCANS)
    with task_group() as group, daemon(samepaged, before=group.before) as one:
        one.wait_scans(2)
        address, since = one.address, len(one.log)
        with wait_for_child(one.process.pid, WEB) as web, group.failing():
            web.kill()
            complained(one, since, "temporarily unavailable")
            for _ in range(2):  # scans continue without a web process
                host.witness.next_pause()
            assert one.process.poll() is None, one.log

        # the address is the same, the figures are present, and the counters continue
        def served() -> bool:
            with contextlib.suppress(OSError):
                assert one.address == address
                return (one.metric("samepage_scan_duration_seconds_count") or 0) > 2
            return False

        one.wait_until(served, 30)
        assert set(known(one)) == set(NAMES)


def test_descriptor_exhaustion_is_survived(host: Host, samepaged: Samepaged) -> None:
    samepaged.configure(SCANS)
    with daemon(samepaged, before=("prlimit", "--nofile=64")) as one:
        one.wait_scans(2)
        host_, _, port = one.address.partition(":")
        with contextlib.ExitStack() as clients:
            # more clients than it has descriptors for
            for _ in range(150):
                with contextlib.suppress(OSError):
                    clients.enter_context(socket.create_connection((host_, int(port)), timeout=5))
            host.witness.next_pause()
        scanned_again(one)
        with Family(one.process.pid) as family:
            since = len(one.log)
            before = known(one)
            # before a scan's first open, and in the middle of one
            for moment in (lambda: scanned_again(one), host.witness.next_pause):
                moment()
                told = len(one.log)
                with few_descriptors(one.process.pid, 3):
                    complained(one, told, "Too many open files")
                    complained(one, told, "raise LimitNOFILE=")
                    time.sleep(2)
                    assert known(one).keys() == before.keys()
                    assert family.exits == []
                scanned_again(one)
            assert "has ended (" not in one.log
            held = family.held
            with few_descriptors(family.members["guard"].pid, 3):
                # a guard without a libvirt connection does not count: no guest is suspended
                host.libvirtd.stop(signal.SIGKILL)
                host.libvirtd.start()
                assert host.witness.left_paused(5) == []
                complained(one, since, "guard")
                nobody_is_suspended(host, 2)
            scanned_again(one)
            assert family.leaks(held) == {}
