"""Addresses of a guest's RAM in QEMU, from its human monitor. Each command marks the domain as tainted, for as long as
it runs (virDomainQemuMonitorCommand).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from samepaged.hypervisor.protocol import Domain

__all__ = ["FlatRange", "RamBlock", "flat_ranges", "guest_ram_blocks", "host_address", "ram_blocks"]

# `info ramblock`: name, page size, offset, used, total, and since QEMU 8 the host's address and ro or rw.
RAM_BLOCK: Final = re.compile(
    r"\s*(?P<name>\S.*?)\s+\d+ [KMG]?i?B\s+0x[0-9a-f]+\s+0x(?P<used>[0-9a-f]+)\s+0x[0-9a-f]+"
    r"(?:\s+0x(?P<address>[0-9a-f]+))?(?:\s+r[ow])?\s*"
)
# `info mtree -f`, a line of a flat view: the guest's addresses, and a block's name with the offset in it.
FLAT_RANGE: Final = re.compile(
    r"\s*(?P<first>[0-9a-f]{16})-[0-9a-f]{16} \(prio -?\d+, (?:ram|rom)\): "
    r"(?P<name>\S+)(?: @(?P<offset>[0-9a-f]{16}))?(?: .*)?"
)
# gpa2hva uses the view of the address space "memory"; devices may have others.
FLAT_VIEW: Final = "FlatView #"
MEMORY_SPACE: Final = 'AS "memory"'
HOST_ADDRESS: Final = re.compile(
    r"Host virtual address for 0x[0-9a-f]+ \((?P<name>.*)\) is 0x(?P<address>[0-9a-f]+)\s*"
)


@dataclass(frozen=True, slots=True)
class RamBlock:
    """A RAM block of QEMU: its size in bytes, and its address in QEMU's process, if `info ramblock` has it."""

    name: str
    size: int
    address: int | None


@dataclass(frozen=True, slots=True)
class FlatRange:
    """A part of a block in the guest's address space: the guest's address, and the offset in the block, in bytes."""

    name: str
    guest_address: int
    offset: int


def ram_blocks(text: str) -> list[RamBlock]:
    """The blocks in the answer to `info ramblock`."""
    found = (RAM_BLOCK.fullmatch(line) for line in text.splitlines())
    return [
        RamBlock(one["name"], int(one["used"], 16), None if one["address"] is None else int(one["address"], 16))
        for one in found
        if one is not None
    ]


def flat_ranges(text: str) -> Iterator[FlatRange]:
    """The ranges of RAM in the answer to `info mtree -f`."""
    seen = False
    for line in text.splitlines():
        if line.startswith(FLAT_VIEW):
            seen = False
        seen |= line.strip().startswith(MEMORY_SPACE)
        found = FLAT_RANGE.fullmatch(line)
        if seen and found is not None:
            yield FlatRange(found["name"], int(found["first"], 16), int(found["offset"] or "0", 16))


def host_address(text: str, name: str) -> int | None:
    """The address in the answer to `gpa2hva`, or None if it is of another block."""
    found = HOST_ADDRESS.fullmatch(text.strip())
    return int(found["address"], 16) if found is not None and found["name"] == name else None


def guest_ram_blocks(domain: Domain, sizes: Sequence[int]) -> list[RamBlock]:
    """The blocks that have one of these sizes (bytes), with their addresses as QEMU states them, or None. Raises
    GuestError, and HypervisorError.
    """
    ask = domain.monitor_command
    blocks = [block for block in ram_blocks(ask("info ramblock")) if block.size in sizes]
    if not blocks:
        raise GuestError(
            Reason.LAYOUT,
            f"the monitor of domain {domain.name!r} lists no RAM of the sizes in its XML",
            names_domain=True,
        )
    if all(block.address is not None for block in blocks):
        return blocks
    places: dict[str, FlatRange] = {}
    for place in flat_ranges(ask("info mtree -f")):
        places.setdefault(place.name, place)
    return [_with_address(block, places.get(block.name), ask) for block in blocks]


def _with_address(block: RamBlock, place: FlatRange | None, ask: Callable[[str], str]) -> RamBlock:
    if place is None:
        return block
    address = host_address(ask(f"gpa2hva {place.guest_address:#x}"), block.name)
    return block if address is None else replace(block, address=address - place.offset)
