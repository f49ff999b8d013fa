"""Guests: libvirt's domains as values, and which of them may be scanned now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import libvirt

from samepaged.errors import GuestError, Reason
from samepaged.hypervisor import domain_xml
from samepaged.hypervisor.libvirt_domain import LibvirtDomain
from samepaged.hypervisor.protocol import check_monitor
from samepaged.hypervisor.qemu_process import ProcessTable, QemuProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.hypervisor.connection import Hypervisor

__all__ = ["Guest", "describe"]

# A paused guest is scanned as it stands, but not while somebody is at work on it.
BUSY_PAUSES: Final = {
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: (Reason.IN_JOB, "is being migrated"),
    libvirt.VIR_DOMAIN_PAUSED_SAVE: (Reason.IN_JOB, "is being saved"),
    libvirt.VIR_DOMAIN_PAUSED_DUMP: (Reason.IN_JOB, "is being dumped"),
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: (Reason.IN_JOB, "is being snapshotted"),
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: (Reason.IN_JOB, "is being migrated (post-copy)"),
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: (Reason.IN_JOB, "is in a post-copy migration that failed"),
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: (Reason.NOT_RUNNING, "is starting"),
    libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: (Reason.NOT_RUNNING, "is shutting down"),
}
OTHER_STATES: Final = {
    libvirt.VIR_DOMAIN_PMSUSPENDED: (Reason.PM_SUSPENDED, "is suspended by its own power management"),
    libvirt.VIR_DOMAIN_CRASHED: (Reason.CRASHED, "has crashed"),
    libvirt.VIR_DOMAIN_SHUTDOWN: (Reason.NOT_RUNNING, "is shutting down"),
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A domain that can be scanned. `id` is libvirt's, new with each start of the domain; `paused` says that somebody
    else has paused it; `blocks` are its RAM's sizes in bytes; `nosharepages` that KSM is to stay away from it;
    `claims` the groups that its metadata names, by whose metadata it is (`owner.claims`). `vfio`,
    `machine`, `dimms`, `device_writes` and `macvtap` are those of `Hardware`.
    """

    name: str
    uuid: str
    id: int
    paused: bool
    process: QemuProcess
    blocks: tuple[int, ...]
    vfio: bool
    nosharepages: bool = False
    claims: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    dimms: tuple[tuple[int, int], ...] = ()
    device_writes: bool = False
    macvtap: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """The guest's memory in bytes."""
        return sum(self.blocks)

    @property
    def merge_obstacle(self) -> str | None:
        """Why KSM cannot merge the guest's memory, as far as its XML tells, in a word of scan/label_values.py. A
        page that is pinned for DMA has more references than mappings, and KSM leaves such pages alone.
        """
        if self.vfio:
            return "pinned"
        return "nosharepages" if self.nosharepages else None


def describe(
    hypervisor: Hypervisor,
    domain: Any,  # noqa: ANN401 - libvirt's type
    processes: ProcessTable | None = None,
) -> Guest:
    """The guest of a domain. `processes` is the table of this round, if more than one domain is described. Raises
    GuestError with the reason why it must not or cannot be scanned.
    """
    name: str = domain.name()
    state, why = hypervisor.call(f"asking for the state of domain {name!r}", domain.state)
    paused = state == libvirt.VIR_DOMAIN_PAUSED
    if not paused and state not in {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED}:
        reason, text = OTHER_STATES.get(state, (Reason.NOT_RUNNING, "is not running"))
        raise GuestError(reason, text, domain=name)
    if paused and why in BUSY_PAUSES:
        reason, text = BUSY_PAUSES[why]
        raise GuestError(reason, text, domain=name)
    check_monitor(LibvirtDomain(hypervisor.call, domain, name), name)
    xml = hypervisor.call(f"reading the XML of domain {name!r}", domain.XMLDesc)
    parsed = domain_xml.parse(xml)
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
    uuid: str = domain.UUIDString()
    return Guest(
        name=name,
        uuid=uuid,
        id=domain.ID(),
        paused=paused,
        process=(processes or ProcessTable()).find(name, uuid),
        blocks=parsed.blocks,
        vfio=parsed.vfio,
        nosharepages=parsed.nosharepages,
        claims=parsed.claims,
        machine=parsed.machine,
        dimms=parsed.dimms,
        device_writes=parsed.device_writes,
        macvtap=parsed.macvtap,
    )
