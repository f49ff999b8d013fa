"""Network links that a suspend interrupts. libvirt sets a macvtap link down when it suspends the guest, and up when it
resumes it; in mode passthrough also the host's network device below (libvirt: qemuInterfaceStopDevice).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError, Reason

if TYPE_CHECKING:
    from samepaged.hypervisor.guest import Guest

__all__ = ["check_links", "interruption"]

PASSTHROUGH: Final = "passthrough"


def interruption(modes: tuple[str, ...]) -> str:
    """The effect of a suspend on macvtap interfaces in these modes (at least one), as a clause."""
    named = f"a macvtap interface (mode {', '.join(modes)}), and libvirt sets its link down at each suspend"
    if PASSTHROUGH in modes:
        named += ", the host's network device as well"
    return f"{named}, and up at the resume"


def check_links(guest: Guest, mode: str, allowed: str) -> None:
    """Raise GuestError if a scan in `mode` (scan.mode) would interrupt a link that `allowed` (scan.macvtap) protects.
    Mode live suspends no guest, and a guest that is paused already is not suspended again.
    """
    if not guest.macvtap or guest.paused or mode == "live" or allowed == "allow_passthrough":
        return
    passthrough = PASSTHROUGH in guest.macvtap
    if allowed == "allow" and not passthrough:
        return
    value = "allow_passthrough" if passthrough else "allow"
    raise GuestError(
        Reason.MACVTAP,
        f"has {interruption(guest.macvtap)}",
        f"to scan it all the same, set scan.macvtap: {value}, or scan.mode: live (no suspend); else exclude it "
        "(guests.exclude)",
        domain=guest.name,
    )
