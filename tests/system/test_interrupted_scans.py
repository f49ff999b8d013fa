"""Scans that are disturbed or ended while their guest is suspended. A large one has pauses that are easy to meet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.daemon import daemon
from tests.support.waiting import happens, wait_for
from tests.system.test_audit import trail

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

# On a busy machine a pause may end before it is seen.
ATTEMPTS = 10


def scan_disturbed(samepaged: Samepaged, writer: Writer, disturb: Callable[[], object]) -> dict[str, Any]:
    """A scan of a guest that fails, as `disturb` is called while the guest is suspended. A pause may end before the
    call has an effect: then the next scan is disturbed.
    """
    ended = threading.Event()

    def as_soon_as_suspended() -> None:
        wait_for(lambda: ended.is_set() or writer.suspended, 60, every=0.0005)
        with contextlib.suppress(libvirt.libvirtError):  # it runs again
            disturb()

    for _ in range(ATTEMPTS):
        ended.clear()
        thread = threading.Thread(target=as_soon_as_suspended)
        thread.start()
        try:
            command = ("scan", "--json", "--config", str(samepaged.config), "--mode", "snapshot", writer.name)
            done = samepaged(*command, expect=None)
        finally:
            ended.set()
            thread.join()
        # A disturbance between two looks of samepaged ends in a pause by another client, which samepaged leaves alone.
        if writer.suspended:
            writer.domain.resume()
        if done.returncode != 0:
            scan: dict[str, Any] = json.loads(done.stdout)
            return scan
    pytest.fail(f"{ATTEMPTS} scans ended before they were disturbed")


def test_a_guest_resumed_by_others_is_void(samepaged: Samepaged, large: Writer) -> None:
    scan = scan_disturbed(samepaged, large, large.domain.resume)
    assert scan["domains"] == []
    assert [skipped["reason_code"] for skipped in scan["skipped"]] == ["resumed_by_others"]


def test_a_guest_resumed_and_paused_again_is_void(samepaged: Samepaged, large: Writer) -> None:

    def resume_and_pause_again() -> None:
        large.domain.resume()
        large.domain.suspend()

    scan = scan_disturbed(samepaged, large, resume_and_pause_again)
    assert [skipped["reason_code"] for skipped in scan["skipped"]] == ["resumed_by_others"]


def signalled(samepaged: Samepaged, writer: Writer, number: signal.Signals) -> tuple[int, str]:
    """The exit status and the messages of a scan to which a signal is sent while the guest is suspended. If a pause
    ends before the signal is sent, the next scan gets it.
    """
    command = samepaged.command("scan", "--mode", "snapshot", "--connect", samepaged.uri, writer.name)
    for _ in range(ATTEMPTS):
        met = False
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
        ) as process:
            while not met and process.poll() is None:
                met = happens(lambda: writer.suspended, 0.1, every=0.0005)
            process.send_signal(number)
            # SIGTSTP stops a process that has done with all guests.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
            assert writer.runs
            process.send_signal(signal.SIGCONT)
            _, told = process.communicate(timeout=20)
        if met:
            return process.returncode, told
    pytest.fail(f"{ATTEMPTS} scans ended before they were met")


def test_ctrl_c_ends_a_scan_and_leaves_every_guest_running(samepaged: Samepaged, large: Writer) -> None:
    status, told = signalled(samepaged, large, signal.SIGINT)
    assert status == 130
    assert "all guests run" in told
    assert large.runs


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTSTP, signal.SIGUSR1])
def test_no_signal_of_a_terminal_leaves_a_guest_paused(
    samepaged: Samepaged, large: Writer, number: signal.Signals
) -> None:
    signalled(samepaged, large, number)
    assert large.runs


def test_sigterm_while_a_guest_is_suspended_leaves_it_running_within_a_second(
    samepaged: Samepaged, large: Writer
) -> None:
    samepaged.configure(f"scan: {{interval: 1s, jitter: 0, max_drift: 1}}\nguests: {{include: [{large.name}]}}")
    with daemon(samepaged) as one:
        large.wait_until_suspended()
        assert one.stop() < 1.5
        assert large.runs


def test_scans_that_fail_or_are_interrupted_after_a_pause_have_a_line(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(
        f"scan: {{interval: 1s, jitter: 0, max_drift: 1, mode: snapshot}}\nguests: {{include: [{large.name}]}}"
    )
    with daemon(samepaged) as one:

        def resumed_by_others() -> bool:
            large.wait_until_suspended()
            with contextlib.suppress(libvirt.libvirtError):  # the scanner was quicker
                large.domain.resume()
            return "result=resumed_by_others" in one.log

        one.wait_until(resumed_by_others, 60, every=0.2)
        large.wait_until_suspended()
        one.stop()
    *failed, interrupted = [line for line in trail(one.log) if line["result"] != "scanned"]
    assert {(line["result"], line["pauses"], line["mode"]) for line in failed} == {("resumed_by_others", "1", None)}
    assert (interrupted["result"], interrupted["pauses"], interrupted["mode"]) == ("interrupted", "1", None)
    assert all(float(line["seconds"]) > 0 for line in (*failed, interrupted))
