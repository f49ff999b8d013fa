"""The guard: a small process that resumes the guest which the scanner has suspended, if the scanner dies or hangs.

A dead man's switch with a libvirt connection of its own. The scanner tells it over a socket which guest it is about to
suspend and for how long. When the socket closes, or the time is over, the guard resumes the guest: never one that it
was not told of, nor one that was started anew or paused for another reason meanwhile. It also works on the journal
entries that the scanner leaves open, and ends only when the last of them is settled.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samepaged import ksm, privileges, threads
from samepaged.drift.ledger import PauseLedger
from samepaged.errors import HypervisorError, SamepagedError
from samepaged.guard.abandoned_dumps import release
from samepaged.guard.journal import Entry, OpenEntry
from samepaged.guard.resume import ResumeOutcome, ResumeTask
from samepaged.guard.resume_queue import ResumeQueue
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.ipc import Channel, ChannelClosed
from samepaged.journald import about, configure_logging
from samepaged.log_line import details

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.guard.journal import FileName
    from samepaged.hypervisor.protocol import Hypervisor

__all__ = ["GuardServer", "main"]

log = logging.getLogger(__name__)

# What a terminal, a shell or a service manager sends to all of a group: the guard outlives the scanner, then it leaves.
IGNORED_SIGNALS: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU),
    signal.SIGABRT,  # systemd's watchdog sends it to all of the unit, and not to the process that hangs alone
)


# After the deadline, for which a scanner in a dump may take to end it: QEMU may hang, and the host may be busy.
DUMP_SECONDS: Final = 2.0
# Between two looks at a scanner that hangs in a dump and was killed.
POLL_SECONDS: Final = 1.0
# Between two steps of the work on open entries.
STEP_SECONDS: Final = (0.01, 0.3)


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
    resolved: bool = False
    resume_task: ResumeTask | None = None


class GuardServer:
    """Acts on the scanner's messages. `kill_scanner` ends a scanner that hangs in the middle of a dump: QEMU then waits
    for it to read, and cannot be resumed before.
    """

    def __init__(
        self,
        channel: Channel,
        hypervisor: Hypervisor,
        journal: Path,
        scanner: int,
        kill_scanner: Callable[[], None],
        open_entries: ResumeQueue,
    ) -> None:
        self._channel = channel
        self._scanner = scanner
        self._hypervisor = hypervisor
        self._journal = journal
        self._kill_scanner = kill_scanner
        self._open = open_entries
        self._settler: threads.Worker | None = None
        self._scanner_ended = threading.Event()
        self._watch: _Watch | None = None
        self._look_at = 0.0
        self._settled_at = 0.0  # of the current suspension's entry, after the scanner's end

    def run(self) -> None:
        """Listen until the scanner has ended; then settle what it left."""
        try:
            while True:
                message = self._channel.receive(self._timeout_seconds())
                if message is None:
                    self._resume_overdue()
                else:
                    self._handle(message)
        except ChannelClosed:
            self._take_over()

    def _timeout_seconds(self) -> float | None:
        watch = self._watch
        if watch is None or watch.resolved:
            return None
        return max(watch.deadline, self._look_at) - time.monotonic()

    def _handle(self, message: dict[str, Any]) -> None:
        watch = self._watch
        match message:
            case {"arm": number, "entry": entry, "seconds": seconds, "dumping": dumping}:
                self._arm(_Watch(number, Entry(**entry), time.monotonic() + seconds, seconds, dumping))
            case {"suspended": number} if watch is not None and watch.number == number:
                if not watch.resumed:
                    watch.deadline = time.monotonic() + watch.seconds
                watch.suspended = True
            case {"dump_ended": number} if watch is not None and watch.number == number:
                watch.dumping = False
            case {"left_open": number, "path": path} if watch is not None and watch.number == number:
                self._watch = None
                self._open.add(self._left_open(watch, path))
                self._start_queue_thread()
            case {"disarm": number}:
                resumed = watch is not None and watch.number == number and watch.resumed
                self._watch = None
                self._channel.send(disarmed=number, resumed=resumed)

    def _arm(self, watch: _Watch) -> None:
        # Without a connection of its own the guard could not resume: then nothing is suspended.
        try:
            self._hypervisor.connect()
        except HypervisorError as error:
            self._channel.send(refused=watch.number, why=error.problem, remedy=error.remedy)
            return
        self._watch, self._look_at = watch, 0.0
        self._channel.send(armed=watch.number)

    def _resume_overdue(self) -> None:
        """The deadline has passed, and the scanner has not said that it resumed the guest."""
        watch = self._watch
        if watch is None:
            return
        if watch.dumping and time.monotonic() < watch.deadline + DUMP_SECONDS:
            # A scanner that is alive gives the dump up by itself, and says so.
            self._look_at = watch.deadline + DUMP_SECONDS
            return
        if watch.dumping:
            log.critical("scanner hung during a dump, killing it%s", details(domain=watch.entry.name))
            self._kill_scanner()
            self._look_at = time.monotonic() + POLL_SECONDS
            return
        if watch.resume_task is None:
            watch.resume_task = self._resume_task(watch)
        outcome = self._poll(watch.resume_task)
        # One that runs is looked at again: a scanner that stood still before it called may yet suspend it.
        self._look_at = watch.resume_task.due_time
        if watch.resume_task.resumed and not watch.resumed:
            entry = watch.entry
            extra = about(entry.name, entry.uuid)
            text = "scanner missed the deadline, guard resumed the guest%s"
            log.error(text, details(domain=entry.name), extra=extra)
            watch.resumed = True
        # The scanner clears the journal when it disarms: its file may have another entry by now.
        watch.resolved = outcome in {ResumeOutcome.RESUMED, ResumeOutcome.NOT_OURS}
        if outcome is ResumeOutcome.RUNNING:
            watch.resume_task = None

    def _resume_task(self, watch: _Watch) -> ResumeTask:
        return ResumeTask(self._entry(watch), self._hypervisor, in_flight=not watch.suspended)

    @staticmethod
    def _poll(settling: ResumeTask) -> ResumeOutcome | None:
        try:
            return settling.poll()
        except Exception:  # no fault of one look may end the guard
            log.exception("guest check failed, retrying%s", details(domain=settling.open_entry.entry.name))
            settling.due_time = time.monotonic() + POLL_SECONDS
            return None

    def _left_open(self, watch: _Watch, path: str | None) -> OpenEntry:
        if path is not None:
            return OpenEntry(Path(path), watch.entry, time.time())
        # The file could not be renamed and is still the scanner's, which is to write into it.
        stand_in = self._journal.with_name(f"{self._journal.name}-unnamed-{watch.number}")
        return OpenEntry(stand_in, watch.entry, time.time(), in_memory=True)

    def _entry(self, watch: _Watch) -> OpenEntry:
        # By the scanner's message alone: the file may have been lost.
        return OpenEntry(self._journal, watch.entry, time.time(), in_memory=True)

    def _start_queue_thread(self) -> None:
        """Work on open entries in a thread of its own: messages of the scanner must not wait for it."""
        if self._settler is not None and self._settler.is_alive():
            return
        settler = threads.Worker(self._run_queue)
        try:
            settler.start(HypervisorError)
        except HypervisorError as error:
            # The daemon works on the entry as well, and this process does once the scanner has ended.
            log.warning("recovery deferred until the scanner exits%s", details(error=error))
        else:
            self._settler = settler

    def _run_queue(self) -> None:
        """Work on the open entries until there is none, or until the main thread does it."""
        while self._open.pending and not self._scanner_ended.is_set():
            self._step()
            self._finish_queue()

    def _step(self) -> None:
        try:
            if self._journal in {one.open_entry.path for one in self._open.step()}:
                self._settled_at = time.monotonic()
        except Exception:  # no fault of one step may end the guard
            log.exception("recovery step failed, retrying")

    def _finish_queue(self) -> None:
        least, most = STEP_SECONDS
        self._scanner_ended.wait(min(max(self._open.due_time - time.monotonic(), least), most))

    def _take_over(self) -> None:
        """The scanner has ended."""
        # First what holds a guest or the host otherwise: a dump without a reader, and KSM that was held still.
        for undo in (release, ksm.restore):
            try:
                undo(self._journal.parent, ended=self._scanner)
            except Exception:  # the guest is still to be resumed
                log.exception("cleanup after the scanner failed%s", details(directory=self._journal.parent))
        self._scanner_ended.set()
        while self._settler is not None and self._settler.is_alive():
            self._settler.join(1.0)
        watch, self._settled_at = self._watch, time.monotonic()
        if watch is not None and watch.resolved:
            self._clear_journal()
        elif watch is not None:
            self._open.add(self._entry(watch), in_flight=not watch.suspended)
        self._scanner_ended.clear()
        self._step()  # finds the files of other entries that the scanner left
        while self._open.pending:
            self._finish_queue()
            self._step()
        if watch is not None and watch.suspended and not watch.resolved:
            self._charge(watch)

    def _charge(self, watch: _Watch) -> None:
        """The scanner has not lived to take this pause off the guest's drift budget."""
        try:
            seconds = self._settled_at - (watch.deadline - watch.seconds)
            PauseLedger(self._journal.parent).add(watch.entry.uuid, seconds)
        except Exception:
            log.exception("pause not counted%s", details(domain=watch.entry.name))

    def _clear_journal(self) -> None:
        with contextlib.suppress(OSError):
            os.truncate(self._journal, 0)


def main(uri: str, journal: str, scanner: str) -> None:
    """The process: its end of the channel is standard input."""
    configure_logging("guard")
    logging.raiseExceptions = False  # where the log went may end before we do
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=os.dup(0)))
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
        log.warning("guard keeps its privileges%s", details(error=error))

    def kill_scanner() -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    path = Path(journal)

    def left_open(name: FileName) -> bool:
        # The file of its current suspension is left to the scanner's messages.
        return name.number is not None and f"suspended-{name.pid}-{name.start_time}" == path.name

    open_entries = ResumeQueue(lambda: [path.parent], left_open, uri=uri)
    GuardServer(channel, LibvirtHypervisor(uri), path, pid, kill_scanner, open_entries).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
