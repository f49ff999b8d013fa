"""Scans guests in this process again and again, each time with another call that fails; prints a JSON object.

A program of its own: the library that makes calls fail is loaded at its start. Usage: CONFIG STEP OFFSET DOMAIN...
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import resource
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import libvirt

from samepaged.commands.scan_session import ScanSession
from samepaged.config import load
from samepaged.errors import Reason, SamepagedError
from samepaged.memory import softdirty
from samepaged.service.signals import Signals
from tests.chaos.injection import Injection, Kind
from tests.support.waiting import happens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from samepaged.scan.results import HostScan

# Seconds in which a guest must run again: the guard's margin beyond scan.max_pause, and the time that a resume takes.
PATIENCE: Final = 5.0
# With so many descriptors above those in use, a scan succeeds.
PLENTY: Final = 16
# poll(2) takes no more descriptors than the limit: with fewer than these, libvirt loses its connection.
FEWEST: Final = 3
# Calls of a new connection to libvirt and of a new guard, which a scan has only if they are closed before it.
OF_A_START: Final = (Kind.SOCKET, Kind.DESCRIPTOR, Kind.THREAD)


@dataclass
class Tally:
    """Faults injected, and their effects by description."""

    faults: dict[str, int] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    tracebacks: list[str] = field(default_factory=list)
    left_paused: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    not_recovered: list[str] = field(default_factory=list)


def _runs(domain: Any) -> bool:
    return bool(domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING)


class Run:
    """One process of scans."""

    def __init__(self, scans: Any, injection: Injection, names: list[str], log: Path, connection: Any) -> None:
        self._scans = scans
        self._injection = injection
        self._names = names
        self._log = log
        self._domains = [connection.lookupByName(name) for name in names]
        self._read = 0
        self.tally = Tally()

    def sweep(self, where: str, kind: Kind, pid: int, step: int, offset: int, prepare: Callable[[], None]) -> None:
        """Fail call 1, 2, ... of this kind, or every `step`-th, until a scan has fewer of them."""
        number = 1 + offset % step
        while True:
            prepare()
            self._injection.arm(pid, kind, number)
            found, trace = self._scan()
            failed = self._injection.disarm()
            what = f"{where}, {kind.name} {number}"
            self._judge(what, found, trace)
            if not failed:
                return
            self.tally.faults[f"{where}, {kind.name}"] = self.tally.faults.get(f"{where}, {kind.name}", 0) + 1
            self._must_succeed(what)
            number += step

    def _must_succeed(self, what: str) -> None:
        found, trace = self._scan()
        self._judge(f"after {what}", found, trace)
        if not isinstance(found, list) or found:
            self.tally.not_recovered.append(f"{what}: {found or trace}")

    def _scan(self) -> tuple[list[Any] | str | None, str]:
        """Those skipped by a scan, or the message of the error that it ended in; and the traceback of another one."""
        try:
            found: HostScan = self._scans.scan()
            self._scans.merging()
        except SamepagedError as error:
            return str(error), ""
        except Exception:  # noqa: BLE001 - the report names it
            return None, traceback.format_exc()
        seen = {scan.name for scan in found.scans} | {skipped.name for skipped in found.skipped}
        missing = sorted(set(self._names) - seen)
        return (f"no word of {missing}", "") if missing else (list(found.skipped), "")

    def _judge(self, what: str, found: list[Any] | str | None, trace: str) -> None:
        tally = self.tally
        sys.stderr.flush()
        text = self._log.read_text(errors="replace")
        said, self._read = trace + text[self._read :], len(text)
        skipped = found if isinstance(found, list) else []
        if "Traceback" in said or "please report" in said or any(one.reason is Reason.INTERNAL for one in skipped):
            tally.tracebacks.append(f"{what}: {said[-3000:]}")
        messages = [one.message for one in skipped] if isinstance(found, list) else [str(found)]
        tally.unexplained += [f"{what}: {line}" for line in messages if "; " not in line or "\n" in line]
        if messages:
            tally.messages[what] = " | ".join(messages)
        for domain in self._domains:
            if not happens(partial(_runs, domain), PATIENCE):
                tally.left_paused.append(f"{what}: {domain.name()}")
                domain.resume()

    def starve(self, step: int) -> None:
        """Scan with one descriptor fewer at a time, until none is left: with a new connection to libvirt, and with
        the one that there is.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + PLENTY
        for prepare, limit in itertools.product((self.disconnect, self.leave), range(most, FEWEST - 1, -step)):
            prepare()
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                found, trace = self._scan()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            what = f"{prepare.__name__}, {limit} descriptors"
            self._judge(what, found, trace)
            if not isinstance(found, list) or found:
                self.tally.faults["descriptors"] = self.tally.faults.get("descriptors", 0) + 1
                self._must_succeed(what)

    def disconnect(self) -> None:
        """Have the next scan connect to libvirt."""
        self._scans._hypervisor.close()

    def start_anew(self) -> None:
        """Have the next scan connect to libvirt and start a guard."""
        self._scans._hypervisor.close()
        self._scans._guard.abandon()

    def leave(self) -> None:
        """Have the next scan use the connection and the guard that there are."""


@contextlib.contextmanager
def standard_error(path: Path) -> Iterator[None]:
    """Have all that this process and its guard write there in a file."""
    before = os.dup(2)
    with path.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def main(config: str, step: str, offset: str, *names: str) -> None:
    """Scan with every fault of the configured kind."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    softdirty.supported()
    injection, every, first = Injection(Path(os.environ["SAMEPAGED_CHAOS_INJECT"])), int(step), int(offset)
    settings = load(Path(config))
    with (
        tempfile.TemporaryDirectory() as directory,
        standard_error(log := Path(directory) / "log"),
        Signals() as signals,
        contextlib.closing(libvirt.open(settings.libvirt.uri)) as connection,
        ScanSession(settings, list(names), signals) as scans,
    ):
        logging.basicConfig(stream=sys.stderr, level=logging.INFO)
        run = Run(scans, injection, list(names), log, connection)
        scans.scan()  # load lazily imported modules now
        scans.merging()
        scans.scan()
        for kind in Kind:
            most = every if kind is Kind.OPEN else min(every, 4) if kind is Kind.MMAP else 1
            prepare = run.start_anew if kind in OF_A_START else run.leave
            run.sweep("scanner", kind, os.getpid(), most, first, prepare)
        if every == 1 or (settings.scan.mode, settings.scan.reader) == ("snapshot", "process"):
            # The guard and the connection are the same in all modes: a short run has their faults once.
            for kind in OF_A_START:
                run.sweep("guard", kind, -os.getpid(), 1, 0, run.start_anew)
            run.starve(1 if every == 1 else 3)
    print(json.dumps(asdict(run.tally)))


if __name__ == "__main__":
    main(*sys.argv[1:])
