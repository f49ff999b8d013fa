"""Messages of a service of Type=notify to its service manager (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify", "watchdog_interval"]

# A service manager that does not read its socket must not stop the caller for longer.
SEND_SECONDS = 1.0


def notify(*assignments: str) -> None:
    """Send `assignments`, such as `"READY=1"`, to the service manager, in one message.

    Without a service manager, or if its socket is lost or full, nothing happens. A line break within an assignment
    becomes a space, so that a status with a guest's name cannot add an assignment.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(" ".join(assignment.splitlines()) for assignment in assignments)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(SEND_SECONDS)
        channel.connect(address)
        channel.sendall(message.encode(errors="replace"))


def watchdog_interval() -> float | None:
    """Seconds between two `WATCHDOG=1`, half of the service manager's limit; None without a watchdog."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not allowed.isdecimal() or int(allowed) == 0:
        return None
    return int(allowed) / 1_000_000 / 2
