"""A QEMU that hangs (SIGSTOP, in place of stuck storage): nothing waits for it, and its guest runs afterwards."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.daemon import Daemon, daemon
from tests.support.guests import Spec, running
from tests.support.waiting import happens, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command import Samepaged
    from tests.support.guests import Writer
    from tests.support.processes import Process

RUNNING, PAUSED = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED
HUNG, OTHER = "samepaged-test-hung", "samepaged-test-other"
SCAN = "scan: {interval: 1s, jitter: 0, mode: snapshot, max_pause: 1s, max_drift: 1}"
CONFIG = f"{SCAN}\nguests: {{include: ['{HUNG}', '{OTHER}']}}"
SUCCESS = "samepage_domain_last_scan_success_timestamp_seconds"
# A dead process: no pid is that high.
LEFT = "suspended-4194000-1"


@pytest.fixture(scope="module")
def guests(connection: Any, root: Path) -> Iterator[list[Writer]]:
    specs = [Spec(HUNG, memory=512, cmdline="region=320"), Spec(OTHER, memory=96, cmdline="region=4")]
    with running(connection, root, *specs) as writers:
        writers[0].fill(0, 320 * 256, 5, 320 * 256)
        yield writers


@contextlib.contextmanager
def stopped(writer: Writer) -> Iterator[Process]:
    """Its QEMU hangs until the end of the context, or until the test lets it go on."""
    with writer.process() as process:
        process.send(signal.SIGSTOP)
        try:
            yield process
        finally:
            process.send(signal.SIGCONT)


def entries(samepaged: Samepaged) -> list[Path]:
    """The files of open entries: those of the current suspension have no number."""
    return sorted((samepaged.root / "run").glob("suspended-*-*-*"))


def suspend_from_a_client_that_dies(samepaged: Samepaged, writer: Writer) -> None:
    """State after scanner and guard are killed during a suspend call that QEMU does not answer."""
    run = samepaged.root / "run"
    run.mkdir(exist_ok=True)
    domain = writer.domain
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    entry = {"uri": samepaged.uri, "uuid": domain.UUIDString(), "id": domain.ID(), "name": HUNG, "boot": boot}
    (run / LEFT).write_text(json.dumps(entry) + "\n")
    code = "import libvirt, sys; libvirt.open(sys.argv[1]).lookupByUUIDString(sys.argv[2]).suspend()"
    with subprocess.Popen([sys.executable, "-c", code, samepaged.uri, domain.UUIDString()]) as client:
        wait_for(lambda: domain.controlInfo()[0] == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 20)
        client.kill()


def test_recover_that_gives_up_leaves_the_entry(samepaged: Samepaged, guests: list[Writer]) -> None:
    hung, _ = guests
    with stopped(hung) as process:
        suspend_from_a_client_that_dies(samepaged, hung)
        done = samepaged("recover", "--wait", "2", "--config", str(samepaged.config), expect=1)
        assert "may still be queued in libvirt" in done.stderr
        assert "left paused" not in done.stderr
        assert (samepaged.root / "run" / LEFT).exists()
        process.send(signal.SIGCONT)
        samepaged("recover", "--config", str(samepaged.config))
    assert hung.domain.state()[0] == RUNNING
    assert not (samepaged.root / "run" / LEFT).exists()


def test_a_queued_suspend_call_is_undone_by_a_later_daemon(samepaged: Samepaged, guests: list[Writer]) -> None:
    hung, _ = guests
    samepaged.configure(CONFIG)
    with stopped(hung) as process:
        suspend_from_a_client_that_dies(samepaged, hung)
        with daemon(samepaged) as one:
            one.wait_metric(1, "samepage_journal_open_entries")
            since = one.metric("samepage_journal_open_entry_timestamp_seconds", domain=HUNG) or 0
            assert abs(since - time.time()) < 60
            one.wait_scans(2)
            assert (one.metric("samepage_scan_failures_total", domain=HUNG, reason="open_entry") or 0) >= 1
            assert one.metric(SUCCESS, domain=OTHER) is not None
            process.send(signal.SIGCONT)
            one.wait_metric(0, "samepage_journal_open_entries")
            assert one.metric("samepage_journal_open_entry_timestamp_seconds", domain=HUNG) is None
            assert hung.runs_within(2)
            one.wait_higher(SUCCESS, 0, timeout=20, domain=HUNG)  # and is scanned again
            assert "Traceback" not in one.log


def seconds_of_scans(one: Daemon) -> float:
    began = time.monotonic()
    one.wait_scans(3)
    return time.monotonic() - began


def test_a_guest_whose_monitor_is_busy_is_skipped_at_once(samepaged: Samepaged, guests: list[Writer]) -> None:
    hung, _ = guests
    samepaged.configure(CONFIG)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        usual = seconds_of_scans(one)
        with stopped(hung):
            one.wait_metric(1, "samepage_scan_failures_total", domain=HUNG, reason="monitor_busy")
            # From now on libvirt itself reports it, and a round is as fast as without the guest.
            assert seconds_of_scans(one) < max(5, 2 * usual), one.log
            assert entries(samepaged) == []
        one.wait_higher(SUCCESS, timeout=20, domain=HUNG)


@pytest.mark.parametrize("reader", ["process", "dump"])
def test_a_hang_while_suspended_holds_up_no_other_guest(
    samepaged: Samepaged, guests: list[Writer], reader: str
) -> None:
    hung, _ = guests
    samepaged.configure(CONFIG.replace("mode:", f"reader: {reader}, mode:"))
    with daemon(samepaged) as one:
        one.wait_scans(1)
        caught = False
        while not caught:
            hung.wait_until_suspended(20, lambda: one.log)
            with stopped(hung) as process:
                caught = happens(lambda: entries(samepaged), 5)
                if caught:
                    one.wait_higher(SUCCESS, timeout=5, domain=OTHER)
                    one.wait_metric(1, "samepage_journal_open_entries", timeout=3)
                    process.send(signal.SIGCONT)
                    assert hung.runs_within(5)
                    one.wait_metric(0, "samepage_journal_open_entries")
        one.wait_higher(SUCCESS, timeout=20, domain=HUNG)
        assert "Traceback" not in one.log


def test_a_stop_does_not_wait_for_a_hung_guest(samepaged: Samepaged, guests: list[Writer]) -> None:
    hung, _ = guests
    samepaged.configure(CONFIG)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        while True:
            hung.wait_until_suspended(20, lambda: one.log)
            with stopped(hung) as process:
                if not happens(lambda: entries(samepaged), 5):
                    continue  # it was resumed in the moment before
                began = time.monotonic()
                one.process.send_signal(signal.SIGTERM)
                assert one.process.wait(20) == 1
                assert time.monotonic() - began < 10
                assert "stays open" in one.log
                process.send(signal.SIGCONT)
                # The guard goes on without the scanner.
                assert hung.runs_within(5)
                wait_for(lambda: not entries(samepaged), 20)
            return
