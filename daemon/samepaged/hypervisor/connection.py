"""Connection to libvirt: open and close, libvirt's event loop, and conversion of its errors."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import libvirt

from samepaged import threads
from samepaged.errors import GuestError, HypervisorError, Reason, SamepagedError
from samepaged.log_line import details
from samepaged.os_errors import remedy

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.hypervisor.protocol import ResumeCounter

__all__ = [
    "Connection",
    "check_descriptors",
    "connection_lost",
    "libvirt_error",
    "one_line",
    "open_connection",
    "start_event_loop",
]

log = logging.getLogger(__name__)

# Seconds between keepalive messages, and how many may go unanswered: a hung libvirtd is detected after 15 s.
KEEPALIVE_SECONDS: Final = 5
KEEPALIVE_COUNT: Final = 3
# File descriptors that must be free before a connection is opened; it takes four, and the event loop two.
SPARE_DESCRIPTORS: Final = 8
# Errors of a call on one domain that concern the domain, and not the connection.
GUEST_REASONS: Final = {
    libvirt.VIR_ERR_NO_DOMAIN: Reason.GONE,
    libvirt.VIR_ERR_OPERATION_INVALID: Reason.NOT_RUNNING,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Reason.IN_JOB,
    libvirt.VIR_ERR_ACCESS_DENIED: Reason.NO_PERMISSION,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Reason.NO_PERMISSION,
    libvirt.VIR_ERR_OPERATION_DENIED: Reason.NO_PERMISSION,
}

# Called with the connection, the domain, the event, its detail, and the counter of this connection.
Lifecycle: TypeAlias = "Callable[[libvirt.virConnect, libvirt.virDomain, int, int, ResumeCounter], None]"

_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection, its driver, and the number of its callback for events."""

    native: libvirt.virConnect
    driver: str
    callback: int | None

    def close(self) -> None:
        """Close it. May wait for libvirtd."""
        if self.callback is not None:
            # Also if the connection is dead, and this fails: the callback holds the connection, and its socket.
            with contextlib.suppress(libvirt.libvirtError):
                self.native.domainEventDeregisterAny(self.callback)
        _close(self.native)


def check_descriptors() -> None:
    """Raise HypervisorError if too few file descriptors are left for a connection. GLib, which libvirt uses for its
    event loops, ends the whole process if it gets none.
    """
    with contextlib.ExitStack() as spare:
        try:
            for _ in range(SPARE_DESCRIPTORS):
                spare.callback(os.close, os.eventfd(0))
        except OSError as error:
            raise HypervisorError(
                f"too few file descriptors for a libvirt connection ({error.strerror})", remedy(error, "try again")
            ) from error


def open_connection(uri: str, lifecycle: Lifecycle, resumes: ResumeCounter, *, read_only: bool) -> Connection:
    """Open a connection. With QEMU's driver, `lifecycle` gets its events, and `resumes` with each. May wait for
    libvirtd without a bound: keepalive is set only at the end. Raises libvirtError, and ValueError.
    """
    connection = (libvirt.openReadOnly if read_only else libvirt.open)(uri)
    try:
        driver, callback = connection.getType(), None
        if driver == "QEMU":
            connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            callback = connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, resumes
            )
    except libvirt.libvirtError:
        _close(connection)
        raise
    return Connection(connection, driver, callback)


def _close(connection: libvirt.virConnect) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()


def _ignore_error(_context: object, _error: object) -> None:
    """Print nothing, unlike libvirt's own error handler: each error also raises an exception."""


def _run_event_loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:  # a callback on a dying connection; the loop itself goes on
            log.debug("libvirt event loop failed%s", details(error=error))


def start_event_loop() -> None:
    """Start libvirt's event loop, once per process. It must be registered before the first connection is opened."""
    global _loop  # noqa: PLW0603 - libvirt's event implementation is one a process, too
    with _loop_lock:
        if _loop is None:
            libvirt.registerErrorHandler(_ignore_error, None)
            try:
                libvirt.virEventRegisterDefaultImpl()
            except libvirt.libvirtError as error:
                raise HypervisorError(
                    f"libvirt's event loop cannot be started ({error})", "raise LimitNOFILE= or `ulimit -n`"
                ) from error
            loop = threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True)
            threads.start(loop, HypervisorError)
            _loop = loop


def one_line(text: object) -> str:
    """The text with each run of white space as one space."""
    return " ".join(str(text).split())


def connection_lost(what: str, error: object) -> HypervisorError:
    """The error of a connection that was lost."""
    return HypervisorError(
        f"the connection to libvirt was lost while {what}: {one_line(error)}", "check that libvirtd or virtqemud runs"
    )


def libvirt_error(what: str, error: libvirt.libvirtError, *, alive: bool, names_domain: bool = True) -> SamepagedError:
    """The error of a call: a GuestError, or HypervisorError if the connection was lost. `what` names the act and,
    with `names_domain`, the domain; `alive`: whether the connection is open.
    """
    code = error.get_error_code()
    reason = None if code is None else GUEST_REASONS.get(code)
    if reason is None and (error.get_error_domain() == libvirt.VIR_FROM_RPC or not alive):
        return connection_lost(what, error)
    return GuestError(
        reason or Reason.LIBVIRT, f"{what}: libvirt reports: {one_line(error)}", names_domain=names_domain
    )
