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

# Seconds after the longest intended pause until the guard resumes the guest itself.
GUARD_MARGIN_SECONDS: Final = 1.0
# Timeout of an answer in seconds: the guard may have to connect to libvirt first, which may take 15.
ANSWER_SECONDS: Final = 20.0
# Timeout of the answer to `disarm`, which the guard sends at once.
SHORT_ANSWER_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1


class Guard(Protocol):
    """Interface of the guard for `Suspender`."""

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
    """Client of the guard process: starts it before the first suspension, and again if it has exited. Its journal is in
    `directory`. If `give_up` returns True, the client stops waiting for an answer.
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
        """Start the process without waiting for it. Raises OSError."""
        channel, other = Channel.pair()
        arguments = [self.uri, str(self._journal.path), str(os.getpid())]
        # -I: neither the working directory nor the environment affects imports.
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
        """Record a guest that will be suspended for at most `seconds` in the journal, and arm the guard for it.
        `number` is libvirt's id of the domain. Raises GuestError if the guest must not be suspended.
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
        """Report that the suspend call has returned; the timeout starts now. Raises GuestError if the guard has exited
        since it was armed: the caller must resume the guest at once.
        """
        try:
            self._send(suspended=self._number)
        except ChannelClosed as error:
            raise GuestError(
                Reason.NO_GUARD, "was resumed at once, because the guard had exited", domain=name
            ) from error

    def dump_ended(self) -> None:
        """Report the end of the dump: from now on, the guard resumes an overdue guest itself."""
        with contextlib.suppress(ChannelClosed):
            self._send(dump_ended=self._number)

    def leave_open(self) -> None:
        """Leave the journal entry open, because the guest may be suspended. The guard then also tries to settle it."""
        path = self._journal.leave_open()
        with contextlib.suppress(ChannelClosed):
            self._send(left_open=self._number, path=None if path is None else str(path))

    def disarm(self) -> bool:
        """Report that the guest runs again. Returns whether the guard resumed it."""
        try:
            self._send(disarm=self._number)
            answer = self._receive(SHORT_ANSWER_SECONDS, even_if_stopping=True)
        except ChannelClosed:
            self.abandon()
            answer = {}
        if answer is None:  # it hangs: the next suspension starts another guard
            self.abandon()
        self._journal.clear()
        return bool(answer and answer.get("resumed"))

    def _send(self, **message: Any) -> None:  # noqa: ANN401 - any JSON value
        if self._channel is None:
            raise ChannelClosed
        self._channel.send(**message)

    def _receive(self, seconds: float, *, even_if_stopping: bool = False) -> dict[str, Any] | None:
        """Return the answer to the last request, or None after the timeout."""
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
        """Kill a guard that does not work. Only valid while no guest is suspended."""
        channel, self._channel = self._channel, None
        pid, self._pid = self._pid, None
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            self._wait_for(pid)
        if channel is not None:
            channel.close()

    def close(self, *, wait: bool = True) -> None:
        """Let the guard exit. It exits at once, unless it has an open entry to settle: then do not `wait`."""
        channel, self._channel = self._channel, None
        pid, self._pid = self._pid, None
        if channel is not None:
            channel.close()
        if wait and pid is not None:
            self._wait_for(pid)
        self._journal.close()

    @staticmethod
    def _wait_for(pid: int) -> None:
        """Wait for its exit, with a timeout: a process in uninterruptible sleep does not receive signals."""
        deadline = time.monotonic() + SHORT_ANSWER_SECONDS
        while time.monotonic() < deadline:
            try:
                if os.waitpid(pid, os.WNOHANG) != (0, 0):
                    return
            except OSError:
                return
            time.sleep(0.01)
