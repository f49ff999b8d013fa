"""The two things that systemd and a service of Type=notify say to each other (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify", "watchdog_interval"]

# A service manager that does not read its socket must not stop the scan loop.
SEND_TIMEOUT = 1.0


def notify(*assignments: str) -> None:
    """Tell the service manager `assignments`, such as `"READY=1"`, in one message.

    Nothing happens without a service manager, and nothing is raised where its socket is lost or full. A line break
    within an assignment becomes a space: a status that quotes a guest's name cannot say more than the status.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(" ".join(assignment.splitlines()) for assignment in assignments)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(SEND_TIMEOUT)
        channel.connect(address)
        channel.sendall(message.encode(errors="replace"))


def watchdog_interval() -> float | None:
    """Seconds between two `WATCHDOG=1`: half of what the service manager allows; None where it does not watch us."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not allowed.isdecimal() or int(allowed) == 0:
        return None
    return int(allowed) / 1_000_000 / 2
