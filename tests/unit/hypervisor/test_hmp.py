"""QEMU's reports of the addresses of a guest's RAM."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import GuestError
from samepaged.hypervisor.hmp import FlatRange, RamBlock, flat_ranges, guest_ram_blocks, host_address, ram_blocks
from tests.support.hypervisor import FakeDomain

# QEMU 7.2, a guest with two NUMA nodes of 48 MiB.
BLOCKS = """\
              Block Name    PSize              Offset               Used              Total
               ram-node0    4 KiB  0x0000000000000000 0x0000000003000000 0x0000000003000000
               ram-node1    2 MiB  0x0000000003000000 0x0000000003000000 0x0000000003000000
    /rom@etc/acpi/tables    4 KiB  0x0000000006080000 0x0000000000020000 0x0000000000200000
0000:00:01.0/vga.vram       4 KiB  0x0000000006080000 0x0000000001000000 0x0000000001000000

"""
# QEMU 8.2.
NEWER = """\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000040000000 0x0000000040000000 0x00007f6aabe00000  rw
                 pc.bios    4 KiB  0x0000000040080000 0x0000000000040000 0x0000000000040000 0x00007f6afc800000  ro
"""
TREE = """\
FlatView #0
 AS "mch", root: bus master container
 Root memory region: (none)
  0000000000000000-0000000002ffffff (prio 0, ram): ram-node1 @0000000000000042

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): ram-node0 KVM
  00000000000c3000-00000000000e7fff (prio 0, rom): ram-node0 @00000000000c3000 KVM
  0000000003001000-0000000005ffffff (prio 0, ram): ram-node1 @0000000000001000
  00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio

FlatView #2
 AS "I/O", root: io
  0000000000000000-0000000002ffffff (prio 0, ram): ram-node0 @0000000000000042
"""
ANSWERS = {
    "info ramblock": BLOCKS,
    "info mtree -f": TREE,
    "gpa2hva 0x0": "Host virtual address for 0x0 (ram-node0) is 0x7fa360e00000\n",
    "gpa2hva 0x3001000": "Host virtual address for 0x3001000 (ram-node1) is 0x7fa35dc01000\r\n",
}


def test_blocks_of_both_qemu_formats() -> None:
    assert ram_blocks(BLOCKS) == [
        RamBlock("ram-node0", 48 << 20, None),
        RamBlock("ram-node1", 48 << 20, None),
        RamBlock("/rom@etc/acpi/tables", 128 << 10, None),
        RamBlock("0000:00:01.0/vga.vram", 16 << 20, None),
    ]
    assert ram_blocks(NEWER) == [
        RamBlock("pc.ram", 1 << 30, 0x7F6AABE00000),
        RamBlock("pc.bios", 256 << 10, 0x7F6AFC800000),
    ]


def test_only_guest_visible_ranges_count() -> None:
    assert list(flat_ranges(TREE)) == [
        FlatRange("ram-node0", 0, 0),
        FlatRange("ram-node0", 0xC3000, 0xC3000),
        FlatRange("ram-node1", 0x3001000, 0x1000),
    ]


def test_host_address_matches_the_block() -> None:
    answer = ANSWERS["gpa2hva 0x0"]
    assert host_address(answer, "ram-node0") == 0x7FA360E00000
    assert host_address(answer, "ram-node1") is None
    assert host_address("No memory is mapped at address 0x20000000", "ram-node0") is None


@given(st.text(alphabet='0123456789abcdefx -(),:"@.AS\n', max_size=300))
def test_any_monitor_output_parses_or_raises(text: str) -> None:
    ram_blocks(text)
    list(flat_ranges(text))
    host_address(text, "pc.ram")


def asking(answers: dict[str, str], *sizes: int) -> list[RamBlock]:
    return guest_ram_blocks(FakeDomain(answers=answers), sizes)


def test_partly_mapped_blocks_have_addresses() -> None:
    assert asking(ANSWERS, 48 << 20) == [
        RamBlock("ram-node0", 48 << 20, 0x7FA360E00000),
        RamBlock("ram-node1", 48 << 20, 0x7FA35DC00000),
    ]


def test_a_newer_qemu_is_asked_once() -> None:
    assert asking({"info ramblock": NEWER}, 1 << 30) == [RamBlock("pc.ram", 1 << 30, 0x7F6AABE00000)]


def test_missing_monitor_values_are_none() -> None:
    blocks = asking(ANSWERS | {"info mtree -f": "unknown command"}, 48 << 20)
    assert [block.address for block in blocks] == [None, None]
    with pytest.raises(GuestError, match="lists no RAM"):
        asking(ANSWERS, 7)
