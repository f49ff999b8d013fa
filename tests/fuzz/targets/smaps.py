"""/proc/PID/smaps, and the location of a guest's RAM in it.

A line `Blocks: SIZE …` in the input, which does not exist in real smaps, contains the block sizes from the domain's
XML. Without it, the first writable mapping is the only block.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from samepaged.memory import ram_location
from samepaged.memory.ram_location import RAM_FLAG, locate_ram
from tests.fuzz.target import Target, seed_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from samepaged.memory.ram_location import RamMapping, Vma

BLOCKS: Final = re.compile(r"^Blocks:((?: [0-9]{1,16}){1,16})$", re.MULTILINE | re.ASCII)
WORDS: Final = (
    *(
        b" rw-p ",
        b" rw-s ",
        b" r--p ",
        b" rwxp ",
        b" ---p ",
        b"VmFlags: rd wr mr mw me dc ac dd hg mg \n",
        b" dc",
        b" ht",
    ),
    *(b"VmFlags:", b"[heap]", b"[stack]", b"[anon: ram]", b"/memfd:memory-backend-memfd (deleted)", b"pc.ram"),
    *(b"7f0000000000-7f0006000000 rw-p 00000000 00:00 0 \n", b"7f0006000000-7f000c000000 rw-p 00000000 00:00 0 \n"),
    *(b"00000000", b"00:00", b"00:01", b"ffffffffffffffff", b"Size:               4 kB\n", b"Blocks: 100663296\n"),
    *(b"Blocks: 0 100663296 100663296\n", b"\\012", b" (deleted)", b"ram-node", b"dimm"),
)


def check(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    vmas = ram_location.parse_smaps(text)
    _check_vmas(vmas)
    said = BLOCKS.search(text)
    if said is not None:
        blocks = [int(size) for size in said[1].split()]
    else:
        blocks = [vma.size for vma in vmas if vma.perms.startswith("rw-")][:1]
    _check_located(locate_ram(vmas, blocks), vmas, blocks)


def _check_vmas(vmas: list[Vma]) -> None:
    assert all(0 <= vma.start < vma.end < 1 << 64 for vma in vmas)
    assert all(a.end <= b.start for a, b in pairwise(vmas))
    assert ram_location.parse_smaps("\n".join(_line(vma) for vma in vmas)) == vmas


def _line(vma: Vma) -> str:
    """Return the lines that the kernel prints (fs/proc/task_mmu.c, show_map_vma), and the flags."""
    major, minor = vma.device
    head = f"{vma.start:08x}-{vma.end:08x} {vma.perms} {vma.offset:08x} {major:02x}:{minor:02x} {vma.inode} "
    return f"{head.ljust(72)} {vma.path}\nVmFlags: {' '.join(sorted(vma.flags))} "


def _check_located(mappings: Sequence[RamMapping], vmas: list[Vma], blocks: list[int]) -> None:
    assert [mapping.size for mapping in mappings] == blocks
    flagged = any(vma.flags for vma in vmas)
    for mapping in mappings:
        end = mapping.start + mapping.size
        parts = [vma for vma in vmas if mapping.start <= vma.start and vma.end <= end]
        assert sum(part.size for part in parts) == mapping.size > 0
        assert all(part.perms.startswith("rw-") and part.inode == mapping.inode for part in parts)
        assert all(RAM_FLAG in part.flags for part in parts) or not flagged
        assert (mapping.path, mapping.offset, mapping.shared) == (parts[0].path, parts[0].offset, parts[0].shared)
    ordered = sorted(mappings, key=lambda mapping: mapping.start)
    assert all(a.start + a.size <= b.start for a, b in pairwise(ordered))


def grow(random: Random) -> bytes:
    """Return a few mappings, most of them adjacent, and blocks, most of them with the size of some of the mappings."""
    vmas: list[Vma] = []
    at = 0x7F0000000000
    for _ in range(random.randint(1, 12)):
        at += random.choice((0, 0, 0, 4096, 1 << 30))
        end = at + random.choice((4096, 4096, 8192, 1 << 26))
        inode, path = random.choice(((0, ""), (0, ""), (7, "/memfd:pc.ram (deleted)"), (0, "[heap]"), (9, "/a\rb c")))
        perms = random.choice(("rw-p", "rw-p", "rw-s", "r--p", "rwxp"))
        flags = frozenset(random.choice(("rd wr dc", "rd wr dc", "rd wr dc hg mg", "rd wr", "")).split())
        vmas.append(ram_location.Vma(at, end, perms, random.choice((0, at % (1 << 32))), (0, 1), inode, path, flags))
        at = end
    blocks = []
    for _ in range(random.randint(1, 3)):
        first = random.randrange(len(vmas))
        blocks.append(sum(vma.size for vma in vmas[first : first + random.randint(1, 4)]))
    text = "\n".join([f"Blocks: {' '.join(map(str, blocks))}", *map(_line, vmas), ""])
    return text.encode()


TARGET = Target(check, seed_files("smaps"), WORDS, longest=4096, grow=grow)
