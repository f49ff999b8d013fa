"""The scanner's side of the guard. samepaged does not suspend a guest unless the guard is running and the journal entry
is on disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol

from samepaged.errors import Fault, GuestError, Reason
from samepaged.guard.journal import Entry, Journal
from samepaged.ipc import Channel, ChannelClosed
from samepaged.log_line import details
from samepaged.os_errors import no_resources, remedy
from samepaged.procfs import BOOT_ID, boot_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


__all__ = ["GUARD_MARGIN_SECONDS", "Guard", "GuardClient"]

log = logging.getLogger(__name__)

# Seconds after the longest pause that was meant, before the guard takes the guest from the scanner.
GUARD_MARGIN_SECONDS: Final = 1.0
# Seconds for which an answer is waited: the guard may have to connect to libvirt first, which may take 15.
ANSWER_SECONDS: Final = 20.0
# One that was asked to forget a guest does nothing else first.
SHORT_ANSWER_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1


class Guard(Protocol):
    """A guard as suspending sees it."""

    def arm(self, name: str, uuid: str, number: int, seconds: float, *, dumping: bool) -> None:
        """As in GuardClient."""

    def suspended(self, name: str) -> None:
        """As in GuardClient."""

    def dump_ended(self) -> None:
        """As in GuardClient."""

    def disarm(self) -> bool:
        """As in GuardClient."""

    def leave_open(self) -> None:
        """As in GuardClient."""


class GuardClient:
    """The guard process as the scanner sees it: started before the first suspension, and anew where it has ended. Its
    journal lies in `directory`. `give_up` ends the waiting for its answer.
    """

    def __init__(self, uri: str, directory: Path, give_up: Callable[[], bool] = lambda: False) -> None:
        self.uri = uri
        self.directory = directory
        self._give_up = give_up
        self._journal = Journal(directory)
        self._channel: Channel | None = None
        self._pid: int | None = None
        self._number = 0
        try:
            self._boot = boot_id()
        except OSError as error:
            raise no_resources(str(BOOT_ID), error) from error

    def start(self) -> None:
        """Start the process, and do not wait for it. Raises OSError."""
        channel, other = Channel.pair()
        arguments = [self.uri, str(self._journal.path), str(os.getpid())]
        # -I: neither the working directory nor the environment says what is imported.
        command = [sys.executable, "-I", "-m", "samepaged.guard.server", *arguments]
        try:
            with contextlib.closing(other):
                self._pid = os.posix_spawn(
                    sys.executable,
                    command,
                    os.environ,
                    file_actions=[(os.POSIX_SPAWN_DUP2, other.fileno(), 0)],
                    setsid=True,
                    setsigmask=(),
                    setsigdef=(signal.SIGPIPE,),
                )
        except BaseException:
            channel.close()
            raise
        self._channel = channel

    def arm(self, name: str, uuid: str, number: int, seconds: float, *, dumping: bool) -> None:
        """A guest is about to be suspended for no more than so many seconds: note it, and have the guard watch it.
        `number` is its id of libvirt's. Raises GuestError where it must not be suspended.
        """
        entry = Entry(self.uri, uuid, number, name, self._boot)
        self._journal.write(entry)
        try:
            self._arm(entry, seconds, dumping=dumping)
        except BaseException:
            self._journal.clear()
            raise

    def _arm(self, entry: Entry, seconds: float, *, dumping: bool) -> None:
        for attempt in (1, 2):
            try:
                if self._channel is None:
                    self.start()
                self._number += 1
                self._send(arm=self._number, entry=asdict(entry), seconds=seconds, dumping=dumping)
                answer = self._receive(ANSWER_SECONDS)
            except ChannelClosed:
                log.warning("guard exited, starting a replacement%s", details(pid=self._pid))
                self.abandon()
                if attempt == 1:
                    continue
                why = Fault("it exits at once", "see the log")
            except OSError as error:
                self.abandon()
                why = Fault(f"no process can be started ({error.strerror})", remedy(error, "try again"))
            else:
                if answer is not None and answer.get("armed") == self._number:
                    return
                if answer is None:
                    self.abandon()
                    why = Fault("it does not respond")
                else:
                    why = Fault(str(answer.get("why")), answer.get("remedy"))
            break
        raise GuestError(
            Reason.NO_GUARD,
            f"is not suspended, because the guard is not available: {why.problem}",
            why.remedy,
            domain=entry.name,
        )

    def suspended(self, name: str) -> None:
        """The call that suspends has returned: the time runs from here. Raises GuestError where the guard has ended
        since it was armed: the guest has to be resumed at once.
        """
        try:
            self._send(suspended=self._number)
        except ChannelClosed as error:
            raise GuestError(
                Reason.NO_GUARD, "was resumed at once, because the guard had exited", domain=name
            ) from error

    def dump_ended(self) -> None:
        """The dump is not read any more: from here on the guard resumes the guest itself if it is overdue."""
        with contextlib.suppress(ChannelClosed):
            self._send(dump_ended=self._number)

    def leave_open(self) -> None:
        """The guest is not known to run: the journal keeps the entry, and the guard works on it, too."""
        path = self._journal.leave_open()
        with contextlib.suppress(ChannelClosed):
            self._send(left_open=self._number, path=None if path is None else str(path))

    def disarm(self) -> bool:
        """The guest runs again. Whether it was the guard that resumed it."""
        try:
            self._send(disarm=self._number)
            answer = self._receive(SHORT_ANSWER_SECONDS, even_if_stopping=True)
        except ChannelClosed:
            self.abandon()
            answer = {}
        if answer is None:  # it hangs: the next suspension gets another
            self.abandon()
        self._journal.clear()
        return bool(answer and answer.get("resumed"))

    def _send(self, **message: Any) -> None:  # noqa: ANN401 - what JSON can say
        if self._channel is None:
            raise ChannelClosed
        self._channel.send(**message)

    def _receive(self, seconds: float, *, even_if_stopping: bool = False) -> dict[str, Any] | None:
        """The answer to what was asked last; None where it does not come."""
        if self._channel is None:
            raise ChannelClosed
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            answer = self._channel.receive(min(left, POLL_SECONDS))
            if answer is not None and self._number in answer.values():
                return answer
            if self._give_up() and not even_if_stopping:
                return None
        return None

    def abandon(self) -> None:
        """End a guard that is of no use. Only where nobody is suspended."""
        channel, self._channel = self._channel, None
        pid, self._pid = self._pid, None
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            self._wait_for(pid)
        if channel is not None:
            channel.close()

    def close(self, *, wait: bool = True) -> None:
        """Let the guard end; it does so at once, unless it has an open entry to work on: then do not `wait`."""
        channel, self._channel = self._channel, None
        pid, self._pid = self._pid, None
        if channel is not None:
            channel.close()
        if wait and pid is not None:
            self._wait_for(pid)
        self._journal.close()

    @staticmethod
    def _wait_for(pid: int) -> None:
        """Wait for its end, with a bound: a process in uninterruptible sleep takes no signal."""
        deadline = time.monotonic() + SHORT_ANSWER_SECONDS
        while time.monotonic() < deadline:
            try:
                if os.waitpid(pid, os.WNOHANG) != (0, 0):
                    return
            except OSError:
                return
            time.sleep(0.01)
