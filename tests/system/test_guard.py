"""The guard, the journal and recover: the guest resumes after any crash or hang."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt

from tests.support.daemon import Daemon, daemon
from tests.support.guests import Spec, running
from tests.support.processes import GUARD, children
from tests.support.waiting import wait_for
from tests.system.conftest import LARGE

if TYPE_CHECKING:
    from tests.support.command import Samepaged
    from tests.support.guests import Writer

RUNNING, PAUSED = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED
NAME = LARGE
CONFIG = (
    f"scan: {{interval: 1s, jitter: 0, max_drift: 1, mode: snapshot, max_pause: 1s}}\nguests: {{include: ['{NAME}']}}"
)
# The limit of a pause (scan.max_pause), the guard's margin, and half a second.
DEADLINE = 1.0 + 1.0 + 0.5


def guard_of(one: Daemon) -> int | None:
    """The running guard of a daemon."""
    return next(iter(children(one.process.pid, GUARD)), None)


def wait_for_another_guard(one: Daemon, than: int) -> None:
    one.wait_until(lambda: guard_of(one) not in {than, None}, 60)


def catch(writer: Writer, one: Daemon) -> None:
    """Stop the scanner in the middle of a pause."""

    def caught() -> bool:
        if not writer.suspended:
            return False
        one.process.send_signal(signal.SIGSTOP)
        if not writer.suspended:
            one.process.send_signal(signal.SIGCONT)
            return False
        return True

    one.wait_until(caught, 60, every=0.0005)


def lose(samepaged: Samepaged, writer: Writer) -> None:
    """Have scanner and guard killed at once, in the middle of a pause: the guest stays suspended."""
    with daemon(samepaged) as one:
        one.wait_scans(1)
        guard = guard_of(one)
        assert guard is not None
        catch(writer, one)
        os.kill(guard, signal.SIGKILL)
        one.kill()


def journal(samepaged: Samepaged) -> list[bytes]:
    return [content for path in (samepaged.root / "run").glob("suspended-*") if (content := path.read_bytes())]


def test_hanging_scanner_loses_guest_and_scan(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(CONFIG)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        catch(large, one)
        assert large.runs_within(DEADLINE)
        one.wait("guard resumed the guest")
        one.process.send_signal(signal.SIGCONT)
        one.wait_metric(1, "samepage_scan_failures_total", domain=NAME, reason="overdue")
        one.wait_scans(1)
        assert one.metric("samepage_domain_self_sharing_bytes", domain=NAME) is not None


def test_guard_resumes_after_scanner_kill(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(CONFIG)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        guard = guard_of(one)
        catch(large, one)
        one.kill()
        assert large.runs_within(1)
        wait_for(lambda: not Path(f"/proc/{guard}").exists(), 10, "the guard has ended")
        assert journal(samepaged) == []


def test_recover_resumes_from_the_journal(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(CONFIG)
    lose(samepaged, large)
    assert large.domain.state()[0] == PAUSED
    assert len(journal(samepaged)) == 1
    samepaged("recover", "--config", str(samepaged.config))
    assert large.domain.state()[0] == RUNNING
    assert list((samepaged.root / "run").glob("suspended-*")) == []


def test_daemon_resumes_leftover_guests(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(CONFIG)
    lose(samepaged, large)
    with daemon(samepaged) as one:
        one.wait("resumed the suspended guest of an open journal entry")
        one.wait_scans(1)
    assert large.domain.state()[0] == RUNNING


def test_dead_guard_is_replaced(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(CONFIG)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            first = guard_of(one)
            assert first is not None
            os.kill(first, number)
            wait_for_another_guard(one, first)
            one.wait_scans(1)
        assert one.metric("samepage_domain_self_sharing_bytes", domain=NAME) is not None


def test_guest_paused_by_others_stays_paused(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(CONFIG)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        one.wait_until(lambda: not journal(samepaged) and large.runs, every=0.01)
        large.domain.suspend()
        one.wait_scans(1)
        one.kill()
    try:
        time.sleep(1)
        samepaged("recover", "--config", str(samepaged.config))
        assert large.domain.state()[0] == PAUSED
    finally:
        large.domain.resume()


def test_stale_entry_resumes_no_guest(samepaged: Samepaged, large: Writer) -> None:
    """A restarted domain has a new id: journal entries of the earlier id do not apply to it."""
    run = samepaged.root / "run"
    run.mkdir()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    domain = large.domain
    entry = '{{"uri": "{}", "uuid": "{}", "id": {}, "name": "x", "boot": "{}"}}\n'
    (run / "suspended-4194000-1").write_text(entry.format(samepaged.uri, domain.UUIDString(), domain.ID() + 1, boot))
    (run / "suspended-4194001-1").write_text(entry.format(samepaged.uri, domain.UUIDString(), domain.ID(), "other"))
    domain.suspend()
    try:
        samepaged("recover", "--config", str(samepaged.config))
        assert domain.state()[0] == PAUSED
    finally:
        domain.resume()
    assert list(run.glob("suspended-*")) == []


def test_recover_with_broken_configuration(samepaged: Samepaged, large: Writer) -> None:
    run = samepaged.root / "run"
    run.mkdir()
    samepaged.config.write_text("scan: {intervall: 1s}\n")
    domain = large.domain
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    entry = {"uri": samepaged.uri, "uuid": domain.UUIDString(), "id": domain.ID(), "name": "x", "boot": boot}
    (run / "suspended-4194000-1").write_text(json.dumps(entry) + "\n")
    domain.suspend()
    done = samepaged("recover", "--config", str(samepaged.config), env=os.environ | {"RUNTIME_DIRECTORY": str(run)})
    assert domain.state()[0] == RUNNING
    assert "intervall" in done.stderr


def test_opted_out_guest_is_not_suspended(samepaged: Samepaged, connection: Any, root: Path) -> None:
    metadata = '<metadata><samepaged:scan xmlns:samepaged="urn:samepaged:domain:1" enabled="no"/></metadata>'
    spec = Spec("samepaged-test-private", memory=84, cmdline="region=1", metadata=metadata)
    with running(connection, root, spec):
        scan = samepaged.scan(spec.name)
        assert [skipped["reason_code"] for skipped in scan["skipped"]] == ["opted_out"]
        assert scan["domains"] == []


def test_guard_survives_the_watchdog_signal(samepaged: Samepaged, large: Writer) -> None:
    samepaged.configure(CONFIG)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        guard = guard_of(one)
        assert guard is not None
        catch(large, one)
        for pid in (guard, one.process.pid):  # as to all of a unit's processes
            os.kill(pid, signal.SIGABRT)
        one.process.send_signal(signal.SIGCONT)
        one.process.wait()
        assert large.runs_within(1)
