"""The guard: a small process that resumes the suspended guest if the scanner dies or hangs.

A dead man's switch with a libvirt connection of its own. Before a suspension, the scanner sends the guest and the
timeout over a socket. When the socket closes or the timeout expires, the guard resumes the guest. It does not resume
any other guest, or a guest that was restarted or paused for another reason meanwhile. It also settles the journal
entries that the scanner leaves open, and exits only when the last of them is settled.
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

# Signals that a terminal, a shell or a service manager sends to a whole group. The guard outlives the scanner, then
# exits.
IGNORED_SIGNALS: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU),
    signal.SIGABRT,  # systemd's watchdog sends it to the whole unit, not only to the hung process
)


# Seconds after the deadline for a scanner to end its dump: QEMU may hang, and the host may be busy.
DUMP_SECONDS: Final = 2.0
# Poll interval for a scanner that hung in a dump and was killed.
POLL_SECONDS: Final = 1.0
# Shortest and longest wait between two steps of the recovery.
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
    """Handles the scanner's messages. `kill_scanner` kills a scanner that hangs during a dump: QEMU waits for its
    reader, and cannot be resumed until then.
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
        """Serve until the scanner exits; then settle its open entries."""
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
        # Without its own connection the guard could not resume a guest, so it refuses.
        try:
            self._hypervisor.connect()
        except HypervisorError as error:
            self._channel.send(refused=watch.number, why=error.problem, remedy=error.remedy)
            return
        self._watch, self._look_at = watch, 0.0
        self._channel.send(armed=watch.number)

    def _resume_overdue(self) -> None:
        """Resume the guest after the deadline, because the scanner has not reported a resume."""
        watch = self._watch
        if watch is None:
            return
        if watch.dumping and time.monotonic() < watch.deadline + DUMP_SECONDS:
            # A live scanner aborts the dump by itself, and reports it.
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
        # A running guest is polled again: a scanner that was stopped before its suspend call may still suspend it.
        self._look_at = watch.resume_task.due_time
        if watch.resume_task.resumed and not watch.resumed:
            entry = watch.entry
            extra = about(entry.name, entry.uuid)
            text = "scanner missed the deadline, guard resumed the guest%s"
            log.error(text, details(domain=entry.name), extra=extra)
            watch.resumed = True
        # The scanner clears the journal when it disarms: the file may have another entry by then.
        watch.resolved = outcome in {ResumeOutcome.RESUMED, ResumeOutcome.NOT_OURS}
        if outcome is ResumeOutcome.RUNNING:
            watch.resume_task = None

    def _resume_task(self, watch: _Watch) -> ResumeTask:
        return ResumeTask(self._entry(watch), self._hypervisor, in_flight=not watch.suspended)

    @staticmethod
    def _poll(settling: ResumeTask) -> ResumeOutcome | None:
        try:
            return settling.poll()
        except Exception:  # an error of one poll must not end the guard
            log.exception("guest check failed, retrying%s", details(domain=settling.open_entry.entry.name))
            settling.due_time = time.monotonic() + POLL_SECONDS
            return None

    def _left_open(self, watch: _Watch, path: str | None) -> OpenEntry:
        if path is not None:
            return OpenEntry(Path(path), watch.entry, time.time())
        # The file could not be renamed, and the scanner will write to it again.
        stand_in = self._journal.with_name(f"{self._journal.name}-unnamed-{watch.number}")
        return OpenEntry(stand_in, watch.entry, time.time(), in_memory=True)

    def _entry(self, watch: _Watch) -> OpenEntry:
        # From the scanner's message alone: the file may be lost.
        return OpenEntry(self._journal, watch.entry, time.time(), in_memory=True)

    def _start_queue_thread(self) -> None:
        """Settle open entries in a separate thread, so that messages of the scanner do not wait."""
        if self._settler is not None and self._settler.is_alive():
            return
        settler = threads.Worker(self._run_queue)
        try:
            settler.start(HypervisorError)
        except HypervisorError as error:
            # The daemon settles the entry as well, and so does this process after the scanner's exit.
            log.warning("recovery deferred until the scanner exits%s", details(error=error))
        else:
            self._settler = settler

    def _run_queue(self) -> None:
        """Settle open entries until the queue is empty, or until the main thread takes over."""
        while self._open.pending and not self._scanner_ended.is_set():
            self._step()
            self._finish_queue()

    def _step(self) -> None:
        try:
            if self._journal in {one.open_entry.path for one in self._open.step()}:
                self._settled_at = time.monotonic()
        except Exception:  # an error of one step must not end the guard
            log.exception("recovery step failed, retrying")

    def _finish_queue(self) -> None:
        least, most = STEP_SECONDS
        self._scanner_ended.wait(min(max(self._open.due_time - time.monotonic(), least), most))

    def _take_over(self) -> None:
        """Clean up after the scanner's exit, and settle its entries."""
        # First release a dump without a reader, which keeps a guest paused, and restart KSM.
        for undo in (release, ksm.restore):
            try:
                undo(self._journal.parent, ended=self._scanner)
            except Exception:  # the guest must still be resumed
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
        """Charge the pause to the guest's drift budget in place of the ended scanner."""
        try:
            seconds = self._settled_at - (watch.deadline - watch.seconds)
            PauseLedger(self._journal.parent).add(watch.entry.uuid, seconds)
        except Exception:
            log.exception("pause not counted%s", details(domain=watch.entry.name))

    def _clear_journal(self) -> None:
        with contextlib.suppress(OSError):
            os.truncate(self._journal, 0)


def main(uri: str, journal: str, scanner: str) -> None:
    """Run the process; its end of the channel is standard input."""
    configure_logging("guard")
    logging.raiseExceptions = False  # the reader of the log may exit before this process
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=os.dup(0)))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    pid = int(scanner)
    handle = os.pidfd_open(pid)
    if os.getppid() != pid:
        return  # the scanner exited early, without a suspended guest
    try:
        privileges.seal()
        # Restarting KSM requires write access to root's file.
        privileges.drop(keep=("CAP_DAC_OVERRIDE",))
    except SamepagedError as error:
        log.warning("guard keeps its privileges%s", details(error=error))

    def kill_scanner() -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    path = Path(journal)

    def left_open(name: FileName) -> bool:
        # The file of the current suspension is handled through the scanner's messages.
        return name.number is not None and f"suspended-{name.pid}-{name.start_time}" == path.name

    open_entries = ResumeQueue(lambda: [path.parent], left_open, uri=uri)
    GuardServer(channel, LibvirtHypervisor(uri), path, pid, kill_scanner, open_entries).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
