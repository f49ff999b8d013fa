"""The scanner, its guard, or both die at any moment, and no guest stays behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos.conftest import BYSTANDER, RESTLESS
from tests.chaos.figures import at_most
from tests.chaos.scale import RANDOM, SCALE
from tests.support.daemon import Daemon
from tests.support.processes import GUARD, Process, children, wait_for_child
from tests.support.waiting import happens, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.chaos.conftest import Host
    from tests.support.command import Samepaged

# The seconds that a guest may stay suspended after a kill.
PATIENCE: Final = 5.0
# The seconds within which all that the scanner started has ended: the guard first sees whether a suspension that the
# scanner had asked for is yet to come.
LAST_LOOK: Final = 10.0
# Long pauses, many short ones, and those in which libvirt writes a dump.
WAYS: Final = (
    "mode: snapshot, max_pause: 5s",
    "mode: sliced, max_pause: 50ms, max_duty: 1.0",
    "mode: snapshot, reader: dump, max_pause: 5s",
)


@dataclass
class Tally:
    """Final states of the guests."""

    kills: int = 0
    while_suspended: int = 0
    left_paused: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    unguarded: int = 0
    slowest: float = 0.0


class Run:
    """One daemon after another, as systemd would start them."""

    def __init__(self, host: Host, samepaged: Samepaged) -> None:
        self.host, self.samepaged = host, samepaged
        self.tally = Tally()
        self._ways = cycle(WAYS)
        self._way = WAYS[0]
        self._daemon: Daemon | None = None

    def scanner(self) -> Daemon:
        """A scanning daemon; restarted if the last one was killed."""
        if self._daemon is None:
            self._way = next(self._ways)
            self.samepaged.configure(RESTLESS.format(self._way) + f"\nguests: {{exclude: [{BYSTANDER}]}}")
            self._daemon = Daemon(self.samepaged)
        return self._daemon

    def end(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None
        with self._recovery():
            pass

    def kill(self, kind: str) -> None:
        """Kill `scanner`, `guard` or `both`, and return the states of the guests."""
        one = self.scanner()
        witness, tally = self.host.witness, self.tally

        def lives() -> None:
            assert one.process.poll() is None, one.log

        witness.next_pause(lives)
        with contextlib.ExitStack() as stack:
            guard = stack.enter_context(wait_for_child(one.process.pid, GUARD))
            scanner = stack.enter_context(Process(one.process.pid))
            brood = [stack.enter_context(Process(pid)) for pid in children(one.process.pid)]
            self._wait_for_a_moment(lives)
            victims = {"scanner": [scanner], "guard": [guard], "both": RANDOM.sample([scanner, guard], 2)}[kind]
            for victim in victims:
                victim.kill()
            killed = time.monotonic()
            tally.kills += 1
            if kind == "guard":
                tally.while_suspended += bool(witness.paused())
                self._goes_on(one, killed)
                return
            # As ExecStopPost= does, whether the guard is still at work or not.
            recovery = self._recovery() if kind == "both" or RANDOM.random() < 0.5 else contextlib.nullcontext()
            with recovery:
                tally.while_suspended += bool(witness.paused())
                one.process.wait()
                self._daemon = None
                self._all_is_over(kind, killed, brood)

    def _wait_for_a_moment(self, unless: Callable[[], object]) -> None:
        """Any moment of a scan, or one at which a guest is suspended, or at which libvirt is asked for a dump."""
        if RANDOM.random() < 0.5:
            time.sleep(RANDOM.uniform(0, 1.2))
            return
        self.host.witness.next_pause(unless)
        if "dump" in self._way and RANDOM.random() < 0.5:
            happens(lambda: list(self.samepaged.root.glob("run/dump-*")), 5, every=0.0002)
        time.sleep(RANDOM.choice((0, RANDOM.uniform(0, 0.05))))

    @contextlib.contextmanager
    def _recovery(self) -> Iterator[None]:
        command = self.samepaged.command("recover", "--config", str(self.samepaged.config))
        with subprocess.Popen(command) as process:
            yield
            assert process.wait(60) == 0

    def _ran(self, killed: float) -> None:
        seen = self.host.witness.wait_until_each_ran(killed + PATIENCE - time.monotonic())
        self.tally.left_paused += [name for name in self.host.witness.names if name not in seen]
        self.tally.slowest = max([self.tally.slowest, *(when - killed for when in seen.values())])
        assert self.host.bystander_is_left_alone()

    def _all_is_over(self, kind: str, killed: float, brood: list[Process]) -> None:
        """After the scanner's death its child processes end, including all that could suspend a guest."""
        self._ran(killed)
        for process in brood:
            if not process.ended(max(0.0, killed + LAST_LOOK - time.monotonic())):
                self.tally.left_over.append(f"{kind} killed, left: {process.pid}")
                process.kill()
        self.tally.left_paused += self.host.witness.paused()

    def _goes_on(self, one: Daemon, killed: float) -> None:
        """The guard is dead: the scanner lives, and has another one before it suspends a guest again."""
        self._ran(killed)
        assert one.process.poll() is None, one.log
        pause = self.host.witness.next_pause()
        if not children(one.process.pid, GUARD):
            # It died between its promise and the suspension, if that is resumed at once.
            time.sleep(0.2)
            self.tally.unguarded += self.host.witness.is_paused(pause.name) and not children(one.process.pid, GUARD)


@pytest.mark.timeout(3600)
def test_kills_leave_no_guest_paused(host: Host, samepaged: Samepaged) -> None:
    run = Run(host, samepaged)
    kinds = cycle(("scanner", "guard", "both"))
    try:
        for _ in range(SCALE.kills):
            run.kill(next(kinds))
    finally:
        run.end()
    tally = run.tally
    at_most(None, "SIGKILLs of scanner, guard, both in turn, while scans run", tally.kills, "kills")
    at_most(None, "of these, with a guest suspended right after the kill", tally.while_suspended, "kills")
    at_most(None, "libvirtd crashed by itself, and was started again", host.witness.crashes, "crashes")
    at_most(None, "longest until each guest was seen running again", tally.slowest, "s")
    at_most(0, "guests left paused 5 s after a kill", len(tally.left_paused), "guests")
    at_most(0, "suspensions without a guard after its kill", tally.unguarded, "suspensions")
    at_most(0, "processes left 10 s after the scanner's kill", len(tally.left_over), "processes")
    # else it has shown little
    assert tally.while_suspended >= tally.kills / 4


@pytest.mark.timeout(1800)
def test_scanner_killed_during_dump_leaves_no_hang(host: Host, samepaged: Samepaged) -> None:
    samepaged.configure(RESTLESS.format(WAYS[-1]) + f"\nguests: {{exclude: [{BYSTANDER}]}}")
    hung: list[str] = []
    for _ in range(SCALE.dumps):
        one = Daemon(samepaged)
        try:
            host.witness.next_pause()
            # so soon, libvirt is about to open the FIFO, which has lost its reader
            time.sleep(RANDOM.uniform(0, 0.004))
            one.kill()
            hung += host.witness.left_paused(PATIENCE)
        except TimeoutError as error:
            hung.append(str(error))
        finally:
            one.kill()
            samepaged("recover", "--config", str(samepaged.config))
    at_most(None, "scanners killed while libvirtd is asked for a dump", SCALE.dumps, "kills")
    at_most(0, "of these, with a guest or libvirtd that hangs 5 s later", len(hung), "kills")


DEADLINE: Final = 0.5 + 1.0  # scan.max_pause and the guard's margin


@pytest.mark.timeout(3600)
def test_stopped_scanner_loses_the_guest(host: Host, samepaged: Samepaged) -> None:
    samepaged.configure(RESTLESS.format("mode: snapshot, max_pause: 500ms"))
    late = -DEADLINE
    for _ in range(SCALE.stops):
        # One each: the daemon stops scanning a guest after repeated overlong pauses.
        one = Daemon(samepaged)
        try:
            late = max(late, _stop_while_suspended(host, one) - DEADLINE)
            one.stop()
        finally:
            one.kill()
    at_most(None, "SIGSTOPs of the scanner while a guest is suspended", SCALE.stops, "stops")
    at_most(0.5, "longest that a guest stood still beyond its deadline", late, "s")


def _stop_while_suspended(host: Host, one: Daemon) -> float:
    """How long the guest stood still, in seconds; afterwards the daemon has noticed, and has scanned it again."""
    with Process(one.process.pid) as scanner:
        while True:
            pause = host.witness.next_pause()
            scanner.send(signal.SIGSTOP)
            wait_for(lambda: scanner.state == "T", 30, "the scanner stands still", every=0.0005)
            if host.witness.is_paused(pause.name):
                break
            scanner.send(signal.SIGCONT)  # too late: it had been resumed
        try:
            wait_for(lambda: not host.witness.is_paused(pause.name), 30, f"{pause.name} runs again", every=0.001)
            stood = time.monotonic() - pause.after
        finally:
            scanner.send(signal.SIGCONT)
    one.wait_metric(1, "samepage_scan_failures_total", domain=pause.name, reason="overdue")
    one.wait_higher("samepage_domain_last_scan_success_timestamp_seconds", domain=pause.name)
    return stood
