"""QEMUs hang at any moment of a scan, while processes of samepaged are killed; no guest stays behind."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Final

import libvirt
import pytest

from tests.chaos.conftest import RESTLESS, fill, large
from tests.chaos.figures import at_most
from tests.chaos.scale import RANDOM, SCALE
from tests.chaos.witness import Witness
from tests.support.command import Samepaged
from tests.support.daemon import Daemon
from tests.support.guests import running
from tests.support.processes import GUARD, Process, children, qemu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.conftest import Host

# Seconds after QEMU goes on within which its guest has to run.
PATIENCE: Final = 15.0
# At that time the guest may be in the pause of a scan: it counts as left paused if it is not seen running for so long.
SEEN: Final = 3.0
CELLS: Final = 5
KINDS: Final = ("none", "scanner", "guard", "all")
WAYS: Final = (
    "mode: snapshot, max_pause: 5s",
    "mode: sliced, max_pause: 100ms, max_duty: 1.0",
    "mode: snapshot, reader: dump, max_pause: 5s",
)
SUCCESS: Final = "samepage_domain_last_scan_success_timestamp_seconds"


@dataclass
class Tally:
    """The outcome of all hangs, from several threads."""

    hangs: int = 0
    left_open: int = 0
    left_paused: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    tracebacks: int = 0
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _LeftAloneError(Exception):
    """The circuit breaker leaves the guest alone, as its pauses failed: this daemon shows nothing more."""


class Cell:
    """One guest and one daemon that scans it without rest."""

    def __init__(self, host: Host, name: str, root: Path, uuid: str, tally: Tally) -> None:
        root.mkdir()
        self.samepaged = Samepaged(host.libvirtd.uri, root)
        self.witness = Witness(host.libvirtd, [name])
        self.name, self.uuid, self.tally = name, uuid, tally
        self._ways = cycle(WAYS)
        self._daemon: Daemon | None = None
        self._checked = 0.0

    def close(self) -> None:
        self._end()
        self.samepaged("recover", "--config", str(self.samepaged.config))
        self.witness.close()

    def _end(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self.tally.tracebacks += self._daemon.log.count("Traceback")
            self._daemon = None

    def _scanner(self) -> Daemon:
        if self._daemon is None:
            way = next(self._ways)
            self.samepaged.configure(RESTLESS.format(way) + f"\nguests: {{include: [{self.name}]}}")
            self._daemon = Daemon(self.samepaged)
        return self._daemon

    def hang(self, kind: str, seconds: float) -> None:
        """Stop QEMU at a random moment for so many seconds, and kill processes meanwhile."""
        one = self._at_a_moment()
        with qemu(self.uuid) as it:
            it.send(signal.SIGSTOP)
            goes_on_at = time.monotonic() + seconds
            try:
                time.sleep(RANDOM.uniform(0, min(4.0, seconds / 2)))
                if kind != "none":
                    self._kill(kind, one)
                if kind == "all":
                    self._scanner()
                with self.tally.lock:
                    self.tally.left_open += bool(list(self.samepaged.root.glob("run/suspended-*-*-*")))
                time.sleep(max(0.0, goes_on_at - time.monotonic()))
            finally:
                it.send(signal.SIGCONT)
        self._look(kind, time.monotonic())

    def _at_a_moment(self) -> Daemon:
        """A daemon at a random moment of its scans."""
        while True:
            one = self._scanner()
            try:
                self.witness.next_pause(partial(self._check, one))
                if RANDOM.random() < 0.3:
                    time.sleep(RANDOM.uniform(0, 1.2))
                else:
                    self.witness.next_pause(partial(self._check, one))
                    time.sleep(RANDOM.choice((0, RANDOM.uniform(0, 0.1))))
            except _LeftAloneError:
                self._end()
            else:
                return one

    def _check(self, one: Daemon) -> None:
        now = time.monotonic()
        if now < self._checked + 0.5:
            return
        self._checked = now
        log = one.log
        assert one.process.poll() is None, log
        if "skipping the guest for one hour" in log:
            raise _LeftAloneError

    def _kill(self, kind: str, one: Daemon) -> None:
        with contextlib.ExitStack() as stack:
            found = [one.process.pid] if kind != "guard" else []
            found += children(one.process.pid, GUARD if kind == "guard" else "") if kind != "scanner" else []
            for victim in [stack.enter_context(Process(pid)) for pid in found]:
                victim.kill()
        if kind != "guard":
            one.process.wait()
            self._end()

    def _look(self, kind: str, went_on: float) -> None:
        """15 s after QEMU went on the guest runs, or is in a pause that ends at once."""
        time.sleep(PATIENCE)
        ran = self.witness.wait_until_each_ran(SEEN)
        with self.tally.lock:
            self.tally.hangs += 1
            if not ran:
                self.tally.left_paused.append(f"{self.name} ({kind})")
            elif self._daemon is None:
                self.tally.slowest = max(self.tally.slowest, ran[self.name] - went_on - PATIENCE)
            if self._daemon is not None and self._daemon.process.poll() is not None:
                self.tally.exits.append(f"{kind}: {self._daemon.log[-2000:]}")


@contextlib.contextmanager
def cells(host: Host, tmp_path: Path, tally: Tally, count: int) -> Iterator[list[Cell]]:
    names = [f"samepaged-chaos-hung-{number}" for number in range(count)]
    with (
        contextlib.ExitStack() as stack,
        contextlib.closing(libvirt.open(host.libvirtd.uri)) as connection,
        running(connection, host.root, *(large(name) for name in names)) as writers,
    ):
        for writer in writers:
            fill(writer)
        found = [
            Cell(host, writer.name, tmp_path / writer.name, writer.domain.UUIDString(), tally) for writer in writers
        ]
        for cell in found:
            stack.callback(cell.close)
        try:
            yield found
        finally:
            stack.close()


@pytest.mark.timeout(7200)
def test_hanging_qemu_leaves_no_guest_paused(host: Host, tmp_path: Path) -> None:
    tally = Tally()
    plan = [(KINDS[number % len(KINDS)], RANDOM.uniform(*SCALE.hang_seconds)) for number in range(SCALE.hangs)]
    plan += [(KINDS[-1 - number % len(KINDS)], 120.0) for number in range(SCALE.long_hangs)]
    count = min(CELLS, len(plan))
    with cells(host, tmp_path, tally, count) as found, ThreadPoolExecutor(count) as pool:

        def work(number: int) -> None:
            for kind, seconds in plan[number::count]:
                found[number].hang(kind, seconds)

        for done in [pool.submit(work, number) for number in range(count)]:
            done.result()
    at_most(None, "QEMU stopped at a random moment of a scan, for 5 to 20 s, some for 120 s", tally.hangs, "hangs")
    at_most(None, "of these, with an open journal entry", tally.left_open, "hangs")
    at_most(0, "guests paused 15 s after QEMU went on", len(tally.left_paused), "guests")
    at_most(0, "daemons that ended through a hung QEMU", len(tally.exits), "daemons")
    at_most(0, "tracebacks in the logs of these daemons", tally.tracebacks, "tracebacks")


@pytest.mark.timeout(1800)
def test_one_hung_guest_does_not_delay_others(host: Host, samepaged: Samepaged, tmp_path: Path) -> None:
    """Compare the longest round with a hung QEMU to the longest without one."""
    a, b = host.writers[:2]
    samepaged.configure(RESTLESS.format(WAYS[0]) + f"\nguests: {{include: [{a.name}, {b.name}]}}")
    delays: list[float] = []
    one = Daemon(samepaged)
    try:
        one.wait_scans(2)
        usual = _longest_gap(one, b.name, 3)
        for _ in range(SCALE.delays):
            host.witness.next_pause()
            time.sleep(RANDOM.uniform(0, 0.3))
            with a.process() as it:
                it.send(signal.SIGSTOP)
                try:
                    delays.append(_longest_gap(one, b.name, 3) - usual)
                finally:
                    it.send(signal.SIGCONT)
            one.wait_higher(SUCCESS, timeout=60, domain=a.name)
        assert one.process.poll() is None, one.log
        one.stop()
    finally:
        one.kill()
    at_most(5, "delay of the other guest's scan by a hung one, a round", max(delays), "s")


def _longest_gap(one: Daemon, name: str, scans: int) -> float:
    """The longest time between two successful scans of a guest, of the next few."""
    last, at, longest = one.metric(SUCCESS, domain=name) or 0.0, time.monotonic(), 0.0
    for _ in range(scans):
        last = one.wait_higher(SUCCESS, last, timeout=60, domain=name)
        now = time.monotonic()
        longest, at = max(longest, now - at), now
    return longest
