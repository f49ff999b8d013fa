"""One connection to libvirt, with reconnection, timeouts of calls, and libvirt's events.

A QEMU that hangs blocks virDomainSuspend for as long as it hangs, and other calls for half a minute (libvirt waits for
the domain's job). The caller continues after a timeout; the call itself continues in libvirt.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast
from urllib.parse import urlsplit

import libvirt

from samepaged import threads
from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.guest_id import GuestId
from samepaged.hypervisor.connection import (
    Connection,
    check_descriptors,
    connection_lost,
    libvirt_error,
    one_line,
    open_connection,
    start_event_loop,
)
from samepaged.hypervisor.libvirt_domain import LibvirtDomain
from samepaged.hypervisor.protocol import CallNotMadeError, ResumeCounter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallTimeoutError", "Calls", "LibvirtHypervisor"]

# Interval of `beat` during a call.
BEAT_SECONDS: Final = 0.2
# Longest time of one turn of that loop that counts as waiting.
MAX_WAIT_SECONDS: Final = 0.5

T = TypeVar("T")


class CallTimeoutError(Exception):
    """The call has not returned in time. It continues in its own thread."""


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """One call and its result, or the exception that it raised."""

    function: Callable[[], T]
    returned: threading.Event = field(default_factory=threading.Event)
    result: T | None = None
    error: BaseException | None = None
    on_return: Callable[[], object] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self.error = error
        with self.lock:
            self.returned.set()
        if self.on_return is not None:
            self.on_return()

    def give_up(self, on_return: Callable[[], object]) -> bool:
        """Stop waiting: when the call returns, it calls `on_return`. Returns False if it has already returned."""
        with self.lock:
            if self.returned.is_set():
                return False
            self.on_return = on_return
            return True


class _Worker:
    """A thread that makes one call after another; idle workers are in `idle`."""

    def __init__(self, idle: deque[_Worker]) -> None:
        self._idle = idle
        self._call: Callable[[], None] | None = None
        self._call_ready = threading.Semaphore(0)
        threads.Worker(self._run).start(CallNotMadeError)

    def make(self, call: Callable[[], None] | None) -> None:
        """Make a call; None ends the thread."""
        self._call = call
        self._call_ready.release()

    def _run(self) -> None:
        while True:
            self._call_ready.acquire()
            call, self._call = self._call, None
            if call is None:
                return
            call()
            del call
            self._idle.append(self)


class Calls:
    """Makes calls with a timeout, and calls `beat` periodically meanwhile."""

    def __init__(self, beat: Callable[[], object] = lambda: None) -> None:
        self._beat = beat
        self._idle: deque[_Worker] = deque()
        self._pending_calls: list[threading.Event] = []

    @property
    def unanswered(self) -> int:
        """The number of calls that timed out and have not returned since."""
        self._pending_calls = [returned for returned in self._pending_calls if not returned.is_set()]
        return len(self._pending_calls)

    def make(self, function: Callable[[], T], seconds: float, afterwards: Callable[[], object] = lambda: None) -> T:
        """Call `function` and return its result, or raise its exception. Raises CallTimeoutError after so many seconds;
        the call's own thread then calls `afterwards` when it returns. Raises CallNotMadeError if no thread can be
        started.
        """
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._idle)
        call = _Call(function)
        worker.make(call.make)
        left = seconds
        while True:
            began = time.monotonic()
            if call.returned.wait(max(0.0, min(BEAT_SECONDS, left))):
                break
            self._beat()
            # A process that was stopped meanwhile (SIGSTOP) has not waited: the answer may already be there.
            left -= min(time.monotonic() - began, MAX_WAIT_SECONDS)
            if left <= 0 and call.give_up(afterwards):
                self._pending_calls.append(call.returned)
                raise CallTimeoutError
        if call.error is not None:
            raise call.error
        return cast("T", call.result)

    def close(self) -> None:
        """End the idle threads. A thread with a pending call ends with the process."""
        while self._idle:
            self._idle.pop().make(None)


log = logging.getLogger(__name__)

# Seconds that libvirt may take to accept a connection.
OPEN_SECONDS: Final = 15.0

# Seconds in which libvirt must answer a call. The few calls that need QEMU or a job have their own timeout.
CALL_SECONDS: Final = 3.0
# Seconds for which the caller waits for the connection's end.
CLOSE_SECONDS: Final = 1.0
# Seconds that opening another connection may take, in place of one with a call that does not return.
REPLACE_SECONDS: Final = 2.0
# Path of a file that does not exist. libvirt may log it.
UNLIKELY_FILE: Final = "/samepaged doctor asks whether it may use this connection for more than reading"

GONE_EVENTS: Final = frozenset({libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED})


class LibvirtHypervisor:
    """`Hypervisor` over QEMU's driver of the libvirt at `uri`. When a domain ends, the event loop's thread calls
    `on_gone`. A wait for libvirt ends when `stop` returns True. A `read_only` connection, which is allowed for more
    users, can query but not change.
    """

    def __init__(
        self,
        uri: str,
        on_gone: Callable[[GuestId], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        *,
        read_only: bool = False,
    ) -> None:
        self.uri = uri
        self._read_only = read_only
        self._on_gone = on_gone
        self._stop = stop
        self._connection: Connection | None = None
        self._resumes = ResumeCounter()
        self._calls = Calls(self._stop)
        self._use_lock = threading.Lock()
        self._in_use = False  # by a call without a bound
        self._pending_closes: list[Callable[[], object]] = []  # ends the connection of such a call

    def connect(self, seconds: float = OPEN_SECONDS) -> None:
        """As in Hypervisor: within so many seconds."""
        if self.alive and not self._in_use:
            return
        self.close()
        self._check_uri()
        check_descriptors()
        start_event_loop()
        resumes = ResumeCounter()
        connection = self._open(seconds, resumes)
        if connection.driver != "QEMU":
            connection.close()
            raise HypervisorError(
                f"{self.uri!r} uses libvirt's driver {connection.driver!r}",
                "use the QEMU driver, such as qemu:///system",
            )
        self._connection, self._resumes = connection, resumes

    def _open(self, seconds: float, resumes: ResumeCounter) -> Connection:
        """Open in a separate thread: a client of a hung libvirtd waits for ever until keepalive is set."""
        answers: queue.SimpleQueue[Connection | Exception] = queue.SimpleQueue()
        given_up = threading.Event()

        def work() -> None:
            answer: Connection | Exception
            try:
                answer = open_connection(self.uri, self._lifecycle, resumes, read_only=self._read_only)
            except (libvirt.libvirtError, ValueError) as error:
                answer = error
            answers.put(answer)
            if given_up.is_set() and isinstance(answer, Connection):
                answer.close()

        threads.Worker(work).start(HypervisorError)
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = answers.get(timeout=0.1)
            except queue.Empty:
                if self._stop() or time.monotonic() > deadline:
                    given_up.set()
                    raise self._unreachable("it does not respond") from None
            else:
                if isinstance(answer, Exception):
                    raise self._unreachable(answer) from answer
                return answer

    def _unreachable(self, why: object) -> HypervisorError:
        return HypervisorError(
            f"libvirt at {self.uri!r} cannot be reached: {one_line(why)}",
            "check that libvirtd or virtqemud runs, the URI, and that this user may use its socket (membership of "
            "group 'libvirt', or root)",
        )

    def _check_uri(self) -> None:
        if not self.uri.strip() or not self.uri.isprintable():
            raise HypervisorError(f"libvirt's URI {self.uri!r} is empty or not printable", "use qemu:///system")
        try:
            host = urlsplit(self.uri).hostname
        except ValueError:
            host = None  # libvirt has the better message for an invalid URI
        if host:
            raise HypervisorError(
                f"{self.uri!r} is on host {host!r}", "guest memory is read where the guest runs: run samepaged there"
            )

    def _lifecycle(
        self, _: object, domain: libvirt.virDomain, event: int, _detail: int, resumes: ResumeCounter
    ) -> None:
        # An abandoned connection still delivers events, into counters that are not used any more.
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            resumes.count_event(domain.UUIDString())
        if event in GONE_EVENTS and self._on_gone is not None:
            self._on_gone(GuestId(self.uri, domain.UUIDString()))

    @property
    def resumes(self) -> ResumeCounter:
        """As in Hypervisor: resumes since the connection was made."""
        return self._resumes

    @property
    def unanswered(self) -> int:
        """As in Hypervisor."""
        return self._calls.unanswered

    @property
    def alive(self) -> bool:
        """As in Hypervisor."""
        try:
            return self._native is not None and bool(self._native.isAlive())
        except libvirt.libvirtError:
            return False

    def close(self) -> None:
        """As in Hypervisor."""
        with self._use_lock:
            in_use, end = self._in_use, self._detach()
            if end is not None and in_use:
                self._pending_closes.append(end)
        if end is not None and not in_use:
            with contextlib.suppress(CallTimeoutError, HypervisorError):
                self._calls.make(end, CLOSE_SECONDS)
        self._calls.close()

    def _detach(self) -> Callable[[], object] | None:
        """Detach the connection. The returned function closes it, and must not run during a call over it."""
        connection, self._connection = self._connection, None
        self._in_use = False
        return None if connection is None else connection.close

    def _replace(self) -> None:
        """Abandon the connection to the call that does not return, and open another one. libvirt's client (9.0) loses
        wake-ups, and then answers, if two threads call over one connection; and libvirtd takes no further request of a
        connection with five open ones.
        """
        self._detach()
        with contextlib.suppress(HypervisorError):  # then the next call fails, as after a lost connection
            self.connect(REPLACE_SECONDS)

    def call(
        self,
        what: str,
        function: Callable[[], T],
        seconds: float | None = CALL_SECONDS,
        *,
        names_domain: bool = True,
    ) -> T:
        """Call into libvirt; its errors become GuestError, or HypervisorError if the connection was lost. `what` names
        the act and, with `names_domain`, the domain. After `seconds` the call is abandoned, and GuestError with
        Reason.NO_ANSWER is raised. With None, it runs in the calling thread, without a timeout.
        """
        try:
            return self._call_unbounded(function) if seconds is None else self._call_bounded(function, seconds)
        except CallTimeoutError:
            raise GuestError(
                Reason.NO_ANSWER,
                f"{what}: libvirt has not responded for {seconds:g} s",
                "check whether QEMU or libvirtd hangs (virsh domcontrol)",
                names_domain=names_domain,
            ) from None
        except libvirt.libvirtError as error:
            raise libvirt_error(what, error, alive=self.alive, names_domain=names_domain) from error

    def _call_bounded(self, function: Callable[[], T], seconds: float) -> T:
        connection = self._connection
        try:
            return self._calls.make(function, seconds, connection.close if connection else lambda: None)
        except CallTimeoutError:
            if self._connection is connection:  # the call's thread closes it, when the call returns
                self._replace()
            raise

    def _call_unbounded(self, function: Callable[[], T]) -> T:
        with self._use_lock:
            self._in_use, native = True, self._native
        try:
            return function()
        finally:
            with self._use_lock:
                if self._native is native:
                    self._in_use = False
                ends, self._pending_closes = self._pending_closes, []
            for end in ends:
                end()

    @property
    def _native(self) -> libvirt.virConnect | None:
        return None if self._connection is None else self._connection.native

    def _open_native(self) -> libvirt.virConnect:
        native = self._native
        if native is None:
            raise HypervisorError(f"not connected to libvirt at {self.uri!r}")
        return native

    def versions(self) -> tuple[str, str]:
        """As in Hypervisor."""
        native = self._open_native()
        numbers = self.call(
            "querying versions",
            lambda: (native.getLibVersion(), native.getVersion()),
            OPEN_SECONDS,  # libvirt may probe QEMU's capabilities first
        )
        libvirts, qemus = (f"{number // 10**6}.{number // 1000 % 1000}.{number % 1000}" for number in numbers)
        return libvirts, qemus

    def may_change(self) -> bool:
        """As in Hypervisor. A read-only socket can be opened for writing too, and only then refuses each call that
        changes something: so this makes such a call without an effect.
        """
        native = self._open_native()
        try:
            self.call("checking permissions", lambda: native.saveImageGetXMLDesc(UNLIKELY_FILE, 0))
        except GuestError as error:
            return error.reason is not Reason.NO_PERMISSION
        return True

    def _domain(self, native: libvirt.virDomain) -> LibvirtDomain:
        return LibvirtDomain(self.uri, self.call, native)

    def running(self) -> list[LibvirtDomain]:
        """As in Hypervisor."""
        native = self._open_native()
        domains = self.call("listing domains", lambda: native.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))
        return sorted(map(self._domain, domains), key=lambda domain: domain.name)

    def by_uuid(self, uuid: str) -> LibvirtDomain:
        """As in Hypervisor."""
        native = self._open_native()
        found = self.call(f"looking up domain {uuid}", lambda: native.lookupByUUIDString(uuid), names_domain=False)
        return self._domain(found)

    def by_name(self, name: str) -> LibvirtDomain:
        """As in Hypervisor."""
        native = self._open_native()
        for lookup in (native.lookupByName, native.lookupByUUIDString):
            try:
                return self._domain(self._calls.make(partial(lookup, name), CALL_SECONDS))
            except CallTimeoutError:
                raise HypervisorError(
                    f"libvirt has not responded for {CALL_SECONDS:g} s while looking up {name!r}"
                ) from None
            except UnicodeEncodeError:
                break  # no name that libvirt could have
            except libvirt.libvirtError as error:
                if not self.alive:
                    raise connection_lost(f"looking up {name!r}", error) from error
        raise GuestError(
            Reason.NO_SUCH_DOMAIN,
            f"domain {name!r} does not exist",
            "`virsh list` shows the running domains",
            names_domain=True,
        )
