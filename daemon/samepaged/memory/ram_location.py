"""Location of guest RAM in the QEMU process: mappings from /proc/PID/smaps (Documentation/filesystems/proc.rst)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged import formatting
from samepaged.errors import GuestError, Reason
from samepaged.os_errors import process_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


__all__ = ["RamMapping", "Vma", "locate_ram", "merge_obstacle", "parse_smaps", "read_smaps"]

HEADER: Final = re.compile(
    r"(?P<start>[0-9a-f]{1,16})-(?P<end>[0-9a-f]{1,16}) (?P<perms>[r-][w-][x-][ps]) (?P<offset>[0-9a-f]{1,16}) "
    r"(?P<device>[0-9a-f]{2,8}:[0-9a-f]{2,8}) (?P<inode>[0-9]{1,20})(?: +(?P<path>.*))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Vma:
    """One mapping: addresses in bytes, the file behind it (inode 0: none), and the flags of VmFlags."""

    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    path: str
    flags: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """Whether writes reach the file, and so its other mappings."""
        return self.perms[3] == "s"


def _header(line: str) -> Vma | None:
    found = HEADER.fullmatch(line)
    if found is None:
        return None
    major, minor = (int(part, 16) for part in found["device"].split(":"))
    return Vma(
        start=int(found["start"], 16),
        end=int(found["end"], 16),
        perms=found["perms"],
        offset=int(found["offset"], 16),
        device=(major, minor),
        inode=int(found["inode"]),
        path=found["path"] or "",
    )


def parse_smaps(text: str) -> list[Vma]:
    """The mappings in the text of smaps (or of maps, without flags), in ascending order. Raises GuestError."""
    vmas: list[Vma] = []
    for line in text.split("\n"):
        vma = _header(line)
        if vma is not None:
            if vma.end <= vma.start or (vmas and vma.start < vmas[-1].end):
                raise GuestError(
                    Reason.LAYOUT, f"smaps has mappings out of order: {line[:80]!r}", "use `--reader dump`"
                )
            vmas.append(vma)
        elif line.startswith("VmFlags:") and vmas:
            vmas[-1] = replace(vmas[-1], flags=frozenset(line.split()[1:]))
        elif line and not re.match(r"[A-Za-z_]+:", line):
            raise GuestError(Reason.LAYOUT, f"smaps has a line of unknown format: {line[:80]!r}", "use `--reader dump`")
    return vmas


def read_smaps(pid: int) -> list[Vma]:
    """The mappings of a process. Raises GuestError."""
    try:
        # Not read_text, which also splits lines at carriage returns: the kernel does not escape them in file names.
        text = Path(f"/proc/{pid}/smaps").read_bytes().decode("utf-8", errors="surrogateescape")
    except OSError as error:
        rights = "run as root or with CAP_SYS_PTRACE, or use `--reader dump`"
        raise process_error(error, pid, f"/proc/{pid}/smaps", rights) from error
    if not text:
        raise GuestError(Reason.GONE, f"process {pid} has ended")
    return parse_smaps(text)


# QEMU sets MADV_DONTFORK on every RAM block that it allocates (ram_block_add), and not on other memory of these kinds.
RAM_FLAG: Final = "dc"
HUGETLB_FLAG: Final = "ht"
MERGEABLE_FLAG: Final = "mg"
# Names of libvirt's memory backends in the path of a mapping, if the RAM has a file.
RAM_NAMES: Final = ("memory-backend-memfd", "pc.ram", "ram-node", "dimm", "libvirt/qemu")


@dataclass(frozen=True, slots=True)
class RamMapping:
    """One RAM block of the guest: its address and length in bytes, and the file behind it, if any."""

    start: int
    size: int
    device: tuple[int, int]
    inode: int
    offset: int
    path: str
    shared: bool
    hugetlb: bool
    mergeable: bool

    @property
    def has_file(self) -> bool:
        """Whether pages that are not mapped may have content in a file."""
        return self.inode != 0


def _continues(a: Vma, b: Vma) -> bool:
    """Whether b continues a: the kernel splits a mapping into two if only their flags differ."""
    if a.end != b.start or a.perms != b.perms or (a.device, a.inode) != (b.device, b.inode):
        return False
    return a.inode == 0 or a.offset + a.size == b.offset


def _runs(vmas: Sequence[Vma]) -> Iterator[list[Vma]]:
    run: list[Vma] = []
    for vma in vmas:
        if run and not _continues(run[-1], vma):
            yield run
            run = []
        run.append(vma)
    if run:
        yield run


def _may_be_ram(vma: Vma) -> bool:
    special = vma.inode == 0 and vma.path.startswith("[") and not vma.path.startswith("[anon")
    return vma.perms.startswith("rw-") and not special


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a run, as indices. Not a copy of the list: a run may have tens of thousands of mappings and parts."""

    run: list[Vma]
    first: int
    stop: int

    @property
    def start(self) -> int:
        return self.run[self.first].start

    def rank(self) -> tuple[bool, bool]:
        """Signs that it is RAM, the strongest first: a name of a memory backend, and the size of the whole run."""
        named = any(name in self.run[self.first].path for name in RAM_NAMES)
        return named, self.stop - self.first == len(self.run)


def _parts(run: list[Vma], size: int) -> Iterator[_Part]:
    """Every part of a run with exactly this size. A part may end inside the run, if RAM is adjacent to another mapping
    of the same kind.
    """
    ends = {vma.end: index for index, vma in enumerate(run)}
    for index, vma in enumerate(run):
        last = ends.get(vma.start + size, -1)
        if last >= index:
            yield _Part(run, index, last + 1)


def _mapping(found: _Part) -> RamMapping:
    part = found.run[found.first : found.stop]
    first = part[0]
    return RamMapping(
        start=first.start,
        size=part[-1].end - first.start,
        device=first.device,
        inode=first.inode,
        offset=first.offset,
        path=first.path,
        shared=first.shared,
        hugetlb=any(HUGETLB_FLAG in vma.flags for vma in part),
        mergeable=any(MERGEABLE_FLAG in vma.flags for vma in part),
    )


def _best_mappings(runs: Sequence[list[Vma]], size: int, count: int) -> list[RamMapping]:
    ranked = sorted(((part.rank(), part) for run in runs for part in _parts(run, size)), key=lambda r: r[0])
    ranked.reverse()
    if len(ranked) < count:
        raise GuestError(
            Reason.LAYOUT,
            f"QEMU has {len(ranked)} mappings of {formatting.size(size)} that could be guest RAM, but the domain XML "
            f"has {count} RAM blocks of this size",
            "use `--reader dump`",
        )
    if len(ranked) > count and ranked[count - 1][0] == ranked[count][0]:
        raise GuestError(
            Reason.LAYOUT,
            f"QEMU has more mappings of {formatting.size(size)} than RAM blocks, and they look alike",
            "use `--reader dump`",
        )
    # QEMU allocates blocks in the order of the guest's addresses, and the kernel hands out addresses downwards.
    return [_mapping(part) for part in sorted((part for _, part in ranked[:count]), key=lambda p: -p.start)]


def locate_ram(vmas: Sequence[Vma], blocks: Sequence[int]) -> tuple[RamMapping, ...]:
    """The mappings of RAM blocks of these sizes (bytes), in the order of the blocks. Raises GuestError if they cannot
    be distinguished from other mappings.
    """
    # Without flags (a text of maps, not of smaps) only the size identifies RAM.
    flagged = any(vma.flags for vma in vmas)
    runs = list(_runs([vma for vma in vmas if _may_be_ram(vma) and (RAM_FLAG in vma.flags or not flagged)]))
    found = {size: _best_mappings(runs, size, count) for size, count in Counter(blocks).items()}
    mappings = tuple(found[size].pop(0) for size in blocks)
    ordered = sorted(mappings, key=lambda mapping: mapping.start)
    if any(a.start + a.size > b.start for a, b in pairwise(ordered)):
        raise GuestError(Reason.LAYOUT, "the mappings of the guest's RAM blocks in QEMU overlap", "use `--reader dump`")
    return mappings


def merge_obstacle(mappings: Sequence[RamMapping]) -> str | None:
    """The reason that KSM cannot merge the guest's RAM, as a code of scan/label_values.py; None if it can."""
    if any(mapping.hugetlb for mapping in mappings):
        return "hugetlb"
    if any(mapping.shared for mapping in mappings):
        return "shared"
    return None if all(mapping.mergeable for mapping in mappings) else "not_offered"
