"""One connection to libvirt that may be lost and made again, and libvirt's events."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import libvirt

from samepaged import threads
from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.hypervisor.calls import Calls, Unanswered
from samepaged.hypervisor.event_loop import start_event_loop
from samepaged.hypervisor.libvirt_domain import LibvirtDomain
from samepaged.hypervisor.libvirt_errors import failure, lost, one_line
from samepaged.hypervisor.opening import Opened, check_descriptors, open_connection
from samepaged.hypervisor.resume_events import Resumes

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Hypervisor"]

log = logging.getLogger(__name__)

# Seconds that libvirt may take to accept a connection.
OPEN_SECONDS: Final = 15.0

# Seconds for which an answer is waited. All calls but the few with a bound of their own need neither QEMU nor a job.
CALL_SECONDS: Final = 3.0
# Seconds for which closing is waited.
CLOSE_SECONDS: Final = 1.0
# Seconds that opening another connection may take, in place of one with a call that does not return.
REPLACE_SECONDS: Final = 2.0
# libvirt may look for it and, where it is not, say so in its log.
UNLIKELY_FILE: Final = "/samepaged doctor asks whether it may use this connection for more than reading"

GONE_EVENTS: Final = frozenset({libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED})


class Hypervisor:
    """QEMU's driver of the libvirt at `uri`. `on_gone` is called with a domain's name, in the event loop's thread,
    when the domain ends. `stop` is asked while libvirt is waited for. A `read_only` connection, which more users may
    have, can ask and change nothing.
    """

    def __init__(
        self,
        uri: str,
        on_gone: Callable[[str], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        *,
        read_only: bool = False,
    ) -> None:
        self.uri = uri
        self._read_only = read_only
        self._on_gone = on_gone
        self._stop = stop
        self._opened: Opened | None = None
        self._resumes = Resumes()
        self._calls = Calls(self._stop)
        self._use = threading.Lock()
        self._in_use = False  # by a call without a bound
        self._left_behind: list[Callable[[], object]] = []  # ends the connection of such a call

    def connect(self, seconds: float = OPEN_SECONDS) -> None:
        """Open the connection within so many seconds, or do nothing if it is alive. Raises HypervisorError."""
        if self.alive and not self._in_use:
            return
        self.close()
        self._refuse_uri()
        check_descriptors()
        start_event_loop()
        resumes = Resumes()
        opened = self._open(seconds, resumes)
        if opened.driver != "QEMU":
            opened.close()
            raise HypervisorError(
                f"{self.uri!r} is libvirt's driver {opened.driver!r}", "use QEMU's, such as qemu:///system"
            )
        self._opened, self._resumes = opened, resumes

    def _open(self, seconds: float, resumes: Resumes) -> Opened:
        """Open in a thread of its own: a libvirtd that hangs lets a client wait for ever, as yet without keepalive."""
        answers: queue.SimpleQueue[Opened | Exception] = queue.SimpleQueue()
        given_up = threading.Event()

        def work() -> None:
            found: Opened | Exception
            try:
                found = open_connection(self.uri, self._lifecycle, resumes, read_only=self._read_only)
            except (libvirt.libvirtError, ValueError) as error:
                found = error
            answers.put(found)
            if given_up.is_set() and isinstance(found, Opened):
                found.close()

        threads.Worker(work).start(HypervisorError)
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = answers.get(timeout=0.1)
            except queue.Empty:
                if self._stop() or time.monotonic() > deadline:
                    given_up.set()
                    raise self._unreachable("it does not answer") from None
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

    def _refuse_uri(self) -> None:
        if not self.uri.strip() or not self.uri.isprintable():
            raise HypervisorError(f"libvirt's URI {self.uri!r} is empty or not printable", "use qemu:///system")
        try:
            host = urlsplit(self.uri).hostname
        except ValueError:
            host = None  # libvirt has the better message for what is no URI
        if host:
            raise HypervisorError(
                f"{self.uri!r} is on host {host!r}", "guest memory is read where the guest runs: run samepaged there"
            )

    def _lifecycle(self, _: object, domain: Any, event: int, _detail: int, resumes: Resumes) -> None:  # noqa: ANN401 - libvirt's
        # A connection that was left to a call delivers events, too, into counts that nothing asks for any more.
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            resumes.seen(domain.UUIDString())
        if event in GONE_EVENTS and self._on_gone is not None:
            self._on_gone(domain.name())

    @property
    def resumes(self) -> Resumes:
        """Who resumed which domain, since the connection was made."""
        return self._resumes

    @property
    def unanswered(self) -> int:
        """The number of calls that were given up and have not returned since."""
        return self._calls.unanswered

    @property
    def alive(self) -> bool:
        """Whether the connection is open and was not lost, as far as is known."""
        try:
            return self._connection is not None and bool(self._connection.isAlive())
        except libvirt.libvirtError:
            return False

    def close(self) -> None:
        """Close the connection; harmless where there is none."""
        with self._use:
            in_use, end = self._in_use, self._give_away()
            if end is not None and in_use:
                self._left_behind.append(end)
        if end is not None and not in_use:
            with contextlib.suppress(Unanswered, HypervisorError):
                self._calls.make(end, CLOSE_SECONDS)
        self._calls.close()

    def _give_away(self) -> Callable[[], object] | None:
        """Have no connection any more; what ends it is to be called when no call is under way on it."""
        opened, self._opened = self._opened, None
        self._in_use = False
        return None if opened is None else opened.close

    def _replace(self) -> None:
        """Leave the connection to a call that does not return, and open another one. libvirt's client (9.0) loses
        wake-ups, and then answers, if two threads call over one connection; and libvirtd takes no further request of a
        connection with five open ones.
        """
        self._give_away()
        with contextlib.suppress(HypervisorError):  # then the next call finds none, as after a loss
            self.connect(REPLACE_SECONDS)

    def call(
        self,
        what: str,
        function: Callable[[], Any],
        seconds: float | None = CALL_SECONDS,
        *,
        names_domain: bool = True,
    ) -> Any:  # noqa: ANN401 - whatever libvirt returns
        """Call into libvirt; its errors become GuestError, or HypervisorError if the connection was lost. `what` names
        the act and, with `names_domain`, the domain. After so many seconds the call is left to itself: GuestError with
        Reason.NO_ANSWER. With None it is made in the calling thread, without a bound.
        """
        try:
            return self._without_bound(function) if seconds is None else self._bounded(function, seconds)
        except Unanswered:
            raise GuestError(
                Reason.NO_ANSWER,
                f"{what}: libvirt has not answered for {seconds:g} s",
                "see whether QEMU or libvirtd hangs (virsh domcontrol), and on what",
                names_domain=names_domain,
            ) from None
        except libvirt.libvirtError as error:
            raise failure(what, error, alive=self.alive, names_domain=names_domain) from error

    def _bounded(self, function: Callable[[], Any], seconds: float) -> Any:  # noqa: ANN401 - as call
        opened = self._opened
        try:
            return self._calls.make(function, seconds, opened.close if opened else lambda: None)
        except Unanswered:
            if self._opened is opened:  # the call's thread closes it, when the call returns
                self._replace()
            raise

    def _without_bound(self, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - as call
        with self._use:
            self._in_use, connection = True, self._connection
        try:
            return function()
        finally:
            with self._use:
                if self._connection is connection:
                    self._in_use = False
                ends, self._left_behind = self._left_behind, []
            for end in ends:
                end()

    @property
    def _connection(self) -> Any:  # noqa: ANN401 - libvirt's type
        return None if self._opened is None else self._opened.connection

    def _connected(self) -> Any:  # noqa: ANN401 - libvirt's type
        if self._connection is None:
            raise HypervisorError(f"there is no connection to libvirt at {self.uri!r}")
        return self._connection

    def versions(self) -> tuple[str, str]:
        """Libvirt's and QEMU's, as "9.0.0". Raises GuestError, and HypervisorError."""
        connection = self._connected()
        numbers = self.call(
            "asking for versions",
            lambda: (connection.getLibVersion(), connection.getVersion()),
            OPEN_SECONDS,  # libvirt may probe QEMU's capabilities first
        )
        libvirts, qemus = (f"{number // 10**6}.{number // 1000 % 1000}.{number % 1000}" for number in numbers)
        return libvirts, qemus

    def may_change(self) -> bool:
        """Whether libvirt takes calls over this connection that change something. A read-only socket can be opened
        for writing too, and only then refuses each of them: so one of them is made, which changes nothing. Raises
        HypervisorError.
        """
        connection = self._connected()
        try:
            self.call("asking for rights", lambda: connection.saveImageGetXMLDesc(UNLIKELY_FILE, 0))
        except GuestError as error:
            return error.reason is not Reason.NO_PERMISSION
        return True

    def running(self) -> list[Any]:
        """The domains that have a process now (running or paused), by name."""
        connection = self._connected()
        domains = self.call(
            "listing domains", lambda: connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        )
        return sorted(domains, key=lambda domain: domain.name())

    def by_uuid(self, uuid: str) -> Any:  # noqa: ANN401 - libvirt's type
        """The domain with this UUID. Raises GuestError where there is none."""
        connection = self._connected()
        return self.call(f"looking up domain {uuid}", lambda: connection.lookupByUUIDString(uuid), names_domain=False)

    def domain(self, uuid: str, name: str) -> LibvirtDomain:
        """The domain with this UUID, for suspending and resuming; `name` is for messages. Raises GuestError if there
        is none.
        """
        return LibvirtDomain(self.call, self.by_uuid(uuid), name)

    def by_name(self, name: str) -> Any:  # noqa: ANN401 - libvirt's type
        """The domain of this name (or UUID). Raises GuestError where there is none."""
        connection = self._connected()
        for lookup in (connection.lookupByName, connection.lookupByUUIDString):
            try:
                return self._calls.make(partial(lookup, name), CALL_SECONDS)
            except Unanswered:
                raise HypervisorError(
                    f"libvirt has not answered for {CALL_SECONDS:g} s while {name!r} was looked up"
                ) from None
            except UnicodeEncodeError:
                break  # no name that libvirt could have
            except libvirt.libvirtError as error:
                if not self.alive:
                    raise lost(f"looking up {name!r}", error) from error
        raise GuestError(
            Reason.NO_SUCH_DOMAIN,
            f"there is no domain {name!r}",
            "`virsh list` shows those that run",
            names_domain=True,
        )
