"""Option --verify-layout: compare the RAM location that samepaged found with the QEMU monitor's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from samepaged.doctor.check import Check, failure, ok, one_line, warning
from samepaged.errors import GuestError
from samepaged.formatting import size
from samepaged.hypervisor import hmp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.hypervisor.hmp import RamBlock
    from samepaged.hypervisor.protocol import Domain
    from samepaged.memory.ram_location import RamMapping

__all__ = ["layout_check", "verify_layout"]

NAME: Final = "layout"
TAINTED: Final = "libvirt marks it as tainted (custom-monitor) until it is shut down"


def layout_check(name: str, mappings: Sequence[RamMapping], blocks: Sequence[RamBlock]) -> Check:
    """Compare the mappings that samepaged found in smaps with the RAM blocks that QEMU reports."""
    ours = sorted((mapping.start, mapping.size) for mapping in mappings)
    qemus = sorted((block.address, block.size) for block in blocks if block.address is not None)
    if set(ours) <= set(qemus):  # other memory may be of the same size by chance
        return ok(NAME, f"RAM location confirmed by QEMU, {_format_blocks(ours)}; {TAINTED}", name)
    unknown = [block.name for block in blocks if block.address is None]
    if unknown:
        return warning(
            NAME,
            f"not checked: the monitor does not report the address of {', '.join(unknown)}; {TAINTED}",
            "compare scan --reader process with scan --reader dump, while the guest is paused (virsh suspend)",
            name,
        )
    return failure(
        NAME,
        f"the RAM location differs: {_format_blocks(ours)} in smaps, {_format_blocks(qemus)} in QEMU; {TAINTED}",
        "set scan.reader: dump, and report this as a bug",
        name,
    )


def _format_blocks(places: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{size(length)} at {start:#x}" for start, length in places)


def verify_layout(domain: Domain, mappings: Sequence[RamMapping]) -> Check:
    """Query the monitor of a domain, and compare. Raises HypervisorError if the connection to libvirt is lost."""
    name = domain.name
    try:
        return layout_check(name, mappings, hmp.guest_ram_blocks(domain, [mapping.size for mapping in mappings]))
    except GuestError as error:
        remedy = error.remedy or "run as root, on a host with libvirt-qemu"
        return warning(NAME, one_line(f"not checked: {error.problem}"), remedy, name)
