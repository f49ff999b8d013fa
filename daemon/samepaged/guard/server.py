"""The guard: a small process that resumes the guest which the scanner has suspended, if the scanner dies or hangs.

A dead man's switch with a libvirt connection of its own. The scanner tells it over a socket which guest it is about to
suspend and for how long. When the socket closes, or the time is over, the guard resumes the guest: never one that it
was not told of, nor one that was started anew or paused for another reason meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samepaged import ksm, privileges
from samepaged.errors import GuestError, HypervisorError, SamepagedError
from samepaged.guard.channel import Channel, Closed
from samepaged.guard.journal import Entry
from samepaged.guard.resume import LOOK, RETRY, ResumeOutcome, attempt, rescue
from samepaged.hypervisor.connection import Hypervisor
from samepaged.hypervisor.dumps import release
from samepaged.journald import configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Guard", "main"]

log = logging.getLogger(__name__)

# What a terminal, a shell or a service manager sends to all of a group: the guard outlives the scanner, then it leaves.
DEAF: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU),
    signal.SIGABRT,  # systemd's watchdog sends it to all of the unit, and not to the process that hangs alone
)


@dataclass(slots=True)
class _Watch:
    """A guest that the scanner is about to suspend, or has suspended."""

    number: int
    entry: Entry
    deadline: float
    seconds: float
    dumping: bool
    suspended: bool = False
    resumed: bool = False
    settled: bool = False


class Guard:
    """What the guard does with what it hears. `kill_scanner` ends a scanner that hangs in the middle of a dump: QEMU
    then waits for it to read, and cannot be resumed before.
    """

    def __init__(
        self, link: Channel, hypervisor: Hypervisor, journal: Path, scanner: int, kill_scanner: Callable[[], None]
    ) -> None:
        self._link = link
        self._scanner = scanner
        self._hypervisor = hypervisor
        self._journal = journal
        self._kill_scanner = kill_scanner
        self._watch: _Watch | None = None
        self._look_at = 0.0
        self._wait = RETRY[0]

    def run(self) -> None:
        """Listen until the scanner is no more; then see to what it left."""
        try:
            while True:
                message = self._link.receive(self._patience())
                if message is None:
                    self._overdue()
                else:
                    self._hear(message)
        except Closed:
            self._inherit()

    def _patience(self) -> float | None:
        watch = self._watch
        if watch is None or watch.settled:
            return None
        return max(watch.deadline, self._look_at) - time.monotonic()

    def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"arm": number, "entry": entry, "seconds": seconds, "dumping": dumping}:
                self._arm(_Watch(number, Entry(**entry), time.monotonic() + seconds, seconds, dumping))
            case {"suspended": number} if self._watch is not None and self._watch.number == number:
                if not self._watch.resumed:
                    self._watch.deadline = time.monotonic() + self._watch.seconds
                self._watch.suspended = True
            case {"disarm": number}:
                resumed = self._watch is not None and self._watch.number == number and self._watch.resumed
                self._watch = None
                self._link.send(disarmed=number, resumed=resumed)

    def _arm(self, watch: _Watch) -> None:
        # Whoever is to resume must be able to: without a connection of our own, nothing is suspended.
        try:
            self._hypervisor.connect()
        except HypervisorError as error:
            self._link.send(refused=watch.number, why=str(error))
            return
        self._watch, self._look_at, self._wait = watch, 0.0, RETRY[0]
        self._link.send(armed=watch.number)

    def _overdue(self) -> None:
        """The deadline has passed, and the scanner has not said that it resumed the guest."""
        watch = self._watch
        if watch is None:
            return
        now = time.monotonic()
        if watch.dumping:
            log.critical("domain %r: the scanner hangs in the middle of a dump, and is ended", watch.entry.name)
            self._kill_scanner()
            self._look_at = now + RETRY[1]
            return
        try:
            found = attempt(self._hypervisor, watch.entry)
        except (GuestError, HypervisorError) as error:
            log.warning("domain %r is overdue and could not be resumed, trying on: %s", watch.entry.name, error)
            self._look_at, self._wait = now + self._wait, min(2 * self._wait, RETRY[1])
            return
        # One that runs is looked at again: a scanner that stood still before it called may yet suspend it.
        self._look_at = now + LOOK
        if found is ResumeOutcome.SUSPENDED:
            log.error("domain %r: the scanner did not resume it in time, the guard did", watch.entry.name)
            watch.resumed = True
            self._clear_journal()
        watch.settled = found is not ResumeOutcome.RUNNING

    def _inherit(self) -> None:
        """The scanner is no more."""
        watch = self._watch
        if watch is not None and watch.dumping:
            release(self._journal.parent, ended=self._scanner)
        if watch is not None and not watch.settled:
            found = rescue(self._hypervisor, watch.entry, in_flight=not watch.suspended)
            if found is ResumeOutcome.SUSPENDED:
                log.error("domain %r: samepaged ended while it was suspended, the guard resumed it", watch.entry.name)
        if watch is not None:
            self._clear_journal()

    def _clear_journal(self) -> None:
        with contextlib.suppress(OSError):
            os.truncate(self._journal, 0)


def main(uri: str, journal: str, scanner: str) -> None:
    """The process: its end of the link is standard input."""
    configure_logging("guard")
    logging.raiseExceptions = False  # where the log went may end before we do
    for number in DEAF:
        signal.signal(number, signal.SIG_IGN)
    link = Channel(socket.socket(fileno=os.dup(0)))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    pid = int(scanner)
    handle = os.pidfd_open(pid)
    if os.getppid() != pid:
        return  # it ended before we began, and has suspended nothing
    try:
        privileges.seal()
        # Holding KSM still takes the right to write root's file, and so does undoing it.
        privileges.drop(keep=("CAP_DAC_OVERRIDE",))
    except SamepagedError as error:
        log.warning("the guard keeps what rights it has: %s", error)

    def kill_scanner() -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    Guard(link, Hypervisor(uri), Path(journal), pid, kill_scanner).run()
    ksm.put_back(Path(journal).parent, ended=pid)


if __name__ == "__main__":
    main(*sys.argv[1:])
