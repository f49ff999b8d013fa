"""Guests: domains as values, which of them may be scanned now, and the network links that a suspend interrupts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError, Reason
from samepaged.hypervisor import domain_xml
from samepaged.hypervisor.protocol import check_monitor
from samepaged.hypervisor.qemu_process import ProcessTable, QemuProcess

if TYPE_CHECKING:
    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.domain_xml import DomainXml
    from samepaged.hypervisor.protocol import Domain

__all__ = ["Guest", "check_links", "describe", "interruption"]

# Mode of a macvtap interface whose host device a suspend sets down as well.
PASSTHROUGH: Final = "passthrough"


@dataclass(frozen=True, slots=True)
class Guest:
    """A domain that can be scanned. `id` is libvirt's, new with each start of the domain. `paused`: another client has
    paused it.
    """

    name: str
    guest_id: GuestId
    id: int
    paused: bool
    process: QemuProcess
    xml: DomainXml

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        return self.guest_id.uuid

    @property
    def merge_obstacle(self) -> str | None:
        """Why KSM cannot merge the guest's memory, as far as its XML tells, in a word of scan/label_values.py. A
        page that is pinned for DMA has more references than mappings, and KSM leaves such pages alone.
        """
        if self.xml.vfio:
            return "pinned"
        return "nosharepages" if self.xml.nosharepages else None


def describe(domain: Domain, processes: ProcessTable | None = None) -> Guest:
    """The guest of a domain. `processes` is the table of this round, if more than one domain is described. Raises
    GuestError with the reason if it must not or cannot be scanned.
    """
    name = domain.name
    paused, obstacle = domain.scan_state()
    if obstacle is not None:
        raise GuestError(obstacle.reason, obstacle.text, domain=name)
    check_monitor(domain)
    parsed = domain_xml.parse(domain.xml())
    if parsed.opt_out is not None:
        raise GuestError(Reason.OPTED_OUT, f"is not to be scanned: its metadata says {parsed.opt_out}", domain=name)
    if parsed.encryption is not None:
        raise GuestError(
            Reason.ENCRYPTED,
            f"has encrypted memory (launch security {parsed.encryption!r}): the host sees only ciphertext, which never "
            "repeats",
            "exclude it (guests.exclude)",
            domain=name,
        )
    return Guest(
        name=name,
        guest_id=domain.guest_id,
        id=domain.id,
        paused=paused,
        process=(processes or ProcessTable()).find(name, domain.uuid),
        xml=parsed,
    )


def interruption(modes: tuple[str, ...]) -> str:
    """The effect of a suspend on macvtap interfaces in these modes (at least one), as a clause. libvirt sets a macvtap
    link down when it suspends the guest, and up when it resumes it; in mode passthrough also the host's network device
    below (libvirt: qemuInterfaceStopDevice).
    """
    named = f"a macvtap interface (mode {', '.join(modes)}), and libvirt sets its link down at each suspend"
    if PASSTHROUGH in modes:
        named += ", the host's network device as well"
    return f"{named}, and up at the resume"


def check_links(guest: Guest, mode: str, allowed: str) -> None:
    """Raise GuestError if a scan in `mode` (scan.mode) would interrupt a link that `allowed` (scan.macvtap) protects.
    Mode live suspends no guest, and a guest that is paused already is not suspended again.
    """
    if not guest.xml.macvtap or guest.paused or mode == "live" or allowed == "allow_passthrough":
        return
    passthrough = PASSTHROUGH in guest.xml.macvtap
    if allowed == "allow" and not passthrough:
        return
    value = "allow_passthrough" if passthrough else "allow"
    raise GuestError(
        Reason.MACVTAP,
        f"has {interruption(guest.xml.macvtap)}",
        f"to scan it all the same, set scan.macvtap: {value}, or scan.mode: live (no suspend); else exclude it "
        "(guests.exclude)",
        domain=guest.name,
    )
