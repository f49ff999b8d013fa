"""The scanner's end of the feed: a thread sends documents to the web process, so that scans do not wait for it."""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from samepaged import threads
from samepaged.backoff import Backoff
from samepaged.errors import ConfigError, Fault, SamepagedError
from samepaged.escape import printable
from samepaged.log_line import details
from samepaged.os_errors import no_resources
from samepaged.web.address import written
from samepaged.web.protocol import Answer, Documents, FeedError, FrameReader, Report, Settings, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from samepaged.web.process import WebProcess
    from samepaged.web.protocol import Document, Message

__all__ = ["FeedSchedule", "FrameWriter", "WebClient", "WebListener"]

log = logging.getLogger(__name__)

BEAT_SECONDS: Final = 5.0
"""The longest silence on the feed. After a minute of it the web process reports that the scanner is not connected."""

REFRESH_SECONDS: Final = 15.0
"""Time between two renderings without a change, for ages and the metrics of this process: a usual scrape interval."""

MIN_RENDER_SECONDS: Final = 0.1  # between two renderings, however often the snapshot changes
STALLED_SECONDS: Final = 60.0
RECEIVE_BYTES: Final = 1 << 14
ANSWER_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.5
MAX_WAIT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class WebListener:
    """Listening address of the web process (port 0: any free port), and its web configuration file."""

    host: str
    port: int
    web_config_file: Path | None = None


@dataclass(slots=True)
class FeedSchedule:
    """Due times of the feed's next rendering and of its next keep-alive, on the monotonic clock."""

    rendered: float = -math.inf
    sent: float = -math.inf

    def render_due(self, *, changed: bool) -> float:
        """Due time of the next rendering. `changed`: the snapshot has changed since the last one."""
        return self.rendered + (MIN_RENDER_SECONDS if changed else REFRESH_SECONDS)

    def keep_alive_due(self) -> float:
        """Due time of the next keep-alive."""
        return self.sent + BEAT_SECONDS


class WebClient:
    """Sends the documents of `render` to a web process, and the settings that it accepted last. Raises GuestError if
    the process has no free descriptor.
    """

    def __init__(self, link: WebProcess, render: Callable[[], Iterable[Document]], wanted: WebListener) -> None:
        self._link = link
        self._render = render
        self._state = threading.Condition()
        self._settings = _settings(1, wanted)
        self._answer: Answer | None = None
        self._disconnected: bool | None = None  # None: before the first attempt
        self._awaited_number = 0  # of the settings; 0: `start` and `change` are not waiting
        self._retry = 0.0
        self._stopping = False
        self._stale = True
        try:
            self._wake: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as error:
            raise no_resources("the web process's feed", error) from error
        self._backoff = Backoff(longest=MAX_WAIT_SECONDS)
        self._last_address = ""
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self, stop: Callable[[], bool]) -> None:
        """Start, and wait until the web process listens. Raises SamepagedError if it cannot listen. If the web process
        is missing, the client retries while guests are scanned.
        """
        self._awaited_number = self._settings.number
        threads.start(self._thread, SamepagedError)
        answer = self._wait_for_answer(stop)
        if answer is not None:
            _check(answer)

    def change(self, wanted: WebListener, stop: Callable[[], bool]) -> None:
        """Send other settings, now or when the web process is back. Raises SamepagedError if the web process refuses
        them; the old settings then stay active.
        """
        with self._state:
            before = self._settings
            self._settings = _settings(before.number + 1, wanted)
            self._awaited_number = before.number + 1
        self._wake_thread()
        answer = self._wait_for_answer(stop)
        if answer is None and (self._disconnected or stop()):
            log.warning("web process not connected, sending the new settings when it reconnects")
        elif answer is None or answer.error:
            with self._state:
                self._settings = replace(before, number=before.number + 2)
            self._wake_thread()
            if answer is None:
                raise SamepagedError("the web process does not respond", "check whether it is stopped")
            _check(answer)

    def changed(self) -> None:
        """Render again: the snapshot has changed."""
        self._stale = True
        self._wake_thread()

    def stop(self) -> None:
        """Disconnect from the web process; a child process then exits."""
        self._stopping = True
        self._wake_thread()
        if self._thread.ident is not None:
            self._thread.join()
        with self._state:
            wake, self._wake = self._wake, None
        if wake is not None:
            os.close(wake)

    def _wait_for_answer(self, stop: Callable[[], bool]) -> Answer | None:
        """Return the answer to the awaited settings, or None after a disconnection, a stop or a timeout."""
        deadline = time.monotonic() + ANSWER_SECONDS
        with self._state:
            while not stop() and (left := deadline - time.monotonic()) > 0:
                if self._answer is not None and self._answer.number == self._awaited_number:
                    break
                if self._disconnected:
                    break
                self._state.wait(min(left, POLL_SECONDS))
            asked, self._awaited_number = self._awaited_number, 0
            return self._answer if self._answer is not None and self._answer.number == asked else None

    def _wake_thread(self) -> None:
        with self._state:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        while not self._stopping:
            try:
                connection = self._link.open()
            except OSError as error:
                self._wait_for_retry("cannot connect to the web process", error.strerror or str(error))
                continue
            reason = ""
            try:
                self._serve(FrameWriter(connection))
            except (OSError, FeedError) as error:
                reason = str(error)
            finally:
                ended = self._link.close(connection)
            if not self._stopping:
                self._wait_for_retry("web process disconnected", ended or reason)

    def _serve(self, feed: FrameWriter) -> None:
        """Send new documents, settings and keep-alives until the connection ends."""
        sent_number = 0
        schedule = FeedSchedule()
        while not self._stopping:
            now = time.monotonic()
            if feed.idle and now >= schedule.render_due(changed=self._stale):
                self._stale = False
                schedule.rendered = schedule.sent = now
                feed.show(self._render())
            elif feed.idle and (self._settings.number != sent_number or 0 < self._retry <= now):
                settings, self._retry = self._settings, 0.0
                feed.put(settings)
                sent_number = settings.number
            elif feed.idle and now >= schedule.keep_alive_due():
                schedule.sent = now
                feed.put(Documents())
            due = (schedule.render_due(changed=self._stale), schedule.keep_alive_due(), self._retry or math.inf)
            wait = 0.0 if feed.idle and self._settings.number != sent_number else max(min(due) - now, 0.0)
            for message in feed.move(self._sleep(wait if feed.idle else BEAT_SECONDS, feed.interest)):
                self._handle(message)

    def _wait_for_retry(self, event: str, error: str) -> None:
        wait = self._backoff.failed()
        # A separate web service may be stopped for long: only the first of equal failures is a warning.
        failure = f"{event}{details(error=error)}"
        level = logging.DEBUG if failure == self._last_error else logging.WARNING
        log.log(level, "%s, retrying%s", event, details(error=error, seconds=wait))
        self._last_error = failure
        with self._state:
            self._disconnected, self._answer, self._last_address, self._retry = True, None, "", 0.0
            self._state.notify_all()
        deadline = time.monotonic() + wait
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._sleep(left)

    def _sleep(self, seconds: float, *other: tuple[int, int]) -> int:
        """Wait for a wake-up, for an event of the `other` descriptor, or for the timeout. Return the events of `other`,
        as in poll(2).
        """
        wake = self._wake
        if wake is None:
            return 0
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        for descriptor, events in other:
            poll.register(descriptor, events)
        happened = dict(poll.poll(seconds * 1000))
        if happened.pop(wake, 0):
            os.eventfd_read(wake)
        return next(iter(happened.values()), 0)

    def _handle(self, message: Message) -> None:
        match message:
            case Answer():
                self._handle_answer(message)
            case Report(error):
                if error:
                    log.warning("web process keeps its previous configuration%s", details(error=error))
            case _:
                raise FeedError("the web process sent a message that only the scanner may send")

    def _handle_answer(self, answer: Answer) -> None:
        if answer.number != self._settings.number:
            return
        awaited = answer.number == self._awaited_number
        if not answer.error:
            self._backoff.succeeded()
            self._last_error = ""
            self._log_address(
                f"{'https' if answer.tls else 'http'}://{written(printable(answer.host), answer.port)}/metrics"
            )
        else:
            self._retry = time.monotonic() + self._backoff.failed()
            if not awaited and answer.error != self._last_error:
                log.error("cannot serve metrics%s", details(error=_fault(answer)))
                self._last_error = answer.error
        with self._state:
            self._disconnected, self._answer = False, answer
            if not answer.error and answer.number == self._settings.number:
                # The next web process gets the same port again.
                self._settings = replace(self._settings, port=answer.port)
            self._state.notify_all()

    def _log_address(self, address: str) -> None:
        if address != self._last_address:
            log.info("serving metrics%s", details(url=address))
        self._last_address = address


def _settings(number: int, wanted: WebListener) -> Settings:
    file = wanted.web_config_file
    return Settings(number, wanted.host, wanted.port, None if file is None else str(file))


def _fault(answer: Answer) -> Fault:
    return Fault(printable(answer.error), None if answer.remedy is None else printable(answer.remedy))


def _check(answer: Answer) -> None:
    """Raise the error in an answer. The web process is exposed to the network, so its text is escaped."""
    if answer.error:
        fault = _fault(answer)
        raise ConfigError(fault) if answer.misconfigured else SamepagedError(fault.problem, fault.remedy)


class FrameWriter:
    """The scanner's end of the feed. It buffers at most one frame, so a stalled web process does not use up memory."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unsent: deque[memoryview] = deque()
        self._reader = FrameReader(largest=0)
        self._sent_documents: dict[str, list[Document]] = {}
        self._last_progress = time.monotonic()

    @property
    def interest(self) -> tuple[int, int]:
        """The descriptor, and the events of poll(2) that matter now."""
        return self._socket.fileno(), select.POLLIN | (select.POLLOUT if self._unsent else 0)

    @property
    def idle(self) -> bool:
        """Whether the last frame is sent. Only then may `put` be called."""
        return not self._unsent

    def put(self, message: Message) -> None:
        """Start sending a message. Raises FeedError if it is too large."""
        self._unsent.extend(memoryview(part) for part in encode(message) if part)
        self._last_progress = time.monotonic()

    def show(self, documents: Iterable[Document]) -> None:
        """Start sending the documents that differ from those sent before. Raises FeedError."""
        paths = {path: list(ones) for path, ones in groupby(documents, attrgetter("path"))}
        new = {path: ones for path, ones in paths.items() if self._sent_documents.get(path) != ones}
        self._sent_documents |= new
        self.put(Documents(tuple(one for ones in new.values() for one in ones)))

    def move(self, events: int) -> list[Message]:
        """Send and receive without blocking, after poll(2) returned `events`. Raises OSError if the connection ended or
        made no progress for STALLED_SECONDS, and FeedError.
        """
        messages: list[Message] = []
        if events & ~select.POLLOUT:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise OSError(errno.ECONNRESET, "the web process closed the feed")
            messages = self._reader.feed(data)
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent[0])
                self._last_progress = time.monotonic()
                self._unsent[0] = self._unsent[0][sent:]
                if not self._unsent[0]:
                    self._unsent.popleft()
        except BlockingIOError:
            if time.monotonic() - self._last_progress > STALLED_SECONDS:
                raise OSError(errno.ETIMEDOUT, f"the web process read no data for {STALLED_SECONDS:.0f} s") from None
        return messages
