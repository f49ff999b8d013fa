"""Opening and closing one connection to libvirt."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import libvirt

from samepaged.errors import HypervisorError
from samepaged.os_errors import remedy

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.hypervisor.resume_events import Resumes

__all__ = ["Opened", "check_descriptors", "open_connection"]

# Seconds between keepalive messages, and how many may go unanswered: a libvirtd that hangs is noticed after 15 s.
KEEPALIVE: Final = (5, 3)
# File descriptors that must be free before a connection is opened; it takes four, and the event loop two.
SPARE_DESCRIPTORS: Final = 8


@dataclass(frozen=True, slots=True)
class Opened:
    """An open connection, its driver, and the number of its callback for events."""

    connection: Any
    driver: str
    callback: int | None

    def close(self) -> None:
        """Close it. May wait for libvirtd."""
        if self.callback is not None:
            # Also if the connection is dead, and this fails: the callback holds the connection, and its socket.
            with contextlib.suppress(libvirt.libvirtError):
                self.connection.domainEventDeregisterAny(self.callback)
        _close(self.connection)


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
                f"libvirt cannot be reached with so few descriptors ({error.strerror})", remedy(error, "try again")
            ) from error


def open_connection(uri: str, lifecycle: Callable[..., None], resumes: Resumes, *, read_only: bool) -> Opened:
    """Open a connection. With QEMU's driver, `lifecycle` gets its events, and `resumes` with each. May wait for
    libvirtd without a bound: keepalive is set only at the end. Raises libvirtError, and ValueError.
    """
    connection = (libvirt.openReadOnly if read_only else libvirt.open)(uri)
    try:
        driver, callback = connection.getType(), None
        if driver == "QEMU":
            connection.setKeepAlive(*KEEPALIVE)
            callback = connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, resumes
            )
    except libvirt.libvirtError:
        _close(connection)
        raise
    return Opened(connection, driver, callback)


def _close(connection: Any) -> None:  # noqa: ANN401 - libvirt's type
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()
