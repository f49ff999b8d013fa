"""x86-64: page size, the RAM of QEMU's PC machine types (hw/i386/pc.c), and the format of page tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "HIGH_RAM_START",
    "LARGEST_PAGE_SHIFT",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PTE_ADDRESS_MASK",
    "PTE_INDEX_BITS",
    "PTE_LARGE",
    "PTE_NO_EXECUTE",
    "PTE_PRESENT",
    "PTE_PROT_NONE",
    "PTE_USER",
    "PTE_WRITE",
    "VGA_WINDOW_END",
    "VGA_WINDOW_START",
    "ram_regions",
]

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30

# RAM starts at 0. The part that does not fit below the PCI hole starts at this address.
HIGH_RAM_START: Final = 4 * _GIB
# The legacy window of a display adapter hides this RAM; a memory dump does not contain it.
VGA_WINDOW_START: Final = 0xA0000
VGA_WINDOW_END: Final = 0xC0000

# Bits of a page-table entry (Intel SDM, volume 3A, 4.5).
PTE_PRESENT: Final = 1 << 0
PTE_WRITE: Final = 1 << 1
PTE_USER: Final = 1 << 2
PTE_LARGE: Final = 1 << 7
PTE_NO_EXECUTE: Final = 1 << 63
# Linux sets it in a user entry that is not present, but mapped with PROT_NONE; the frame's bits are then inverted
# (arch/x86/include/asm/pgtable-invert.h; _PAGE_PROTNONE).
PTE_PROT_NONE: Final = 1 << 8
PTE_ADDRESS_MASK: Final = 0x000F_FFFF_FFFF_F000
PTE_INDEX_BITS: Final = 9
# The largest page that an entry can map: 1 GiB.
LARGEST_PAGE_SHIFT: Final = 30


def ram_regions(machine: str | None, memory: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """The possible layouts of `memory` bytes of RAM (without DIMMs) in guest-physical addresses, the likeliest first:
    tuples of (start, size) in bytes. `machine` is libvirt's machine type. QEMU: pc_q35_init and pc_init1.
    """
    q35 = _split(memory, low=2 * _GIB, most=2816 * _MIB)
    i440fx = _split(memory, low=3 * _GIB, most=3584 * _MIB)
    i440fx_old = _split(memory, low=3584 * _MIB, most=3584 * _MIB)
    named = machine or ""
    ordered = [q35, i440fx, i440fx_old] if "q35" in named or "pc" not in named else [i440fx, i440fx_old, q35]
    yield from dict.fromkeys(ordered)


def _split(memory: int, low: int, most: int) -> tuple[tuple[int, int], ...]:
    """The layout with all memory below the hole if it is less than `most` bytes; else with `low` bytes below it."""
    if memory < most or memory <= low:
        return ((0, memory),)
    return (0, low), (HIGH_RAM_START, memory - low)
