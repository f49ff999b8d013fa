"""VMCOREINFO: data of a Linux kernel for crash dumps, in a page of its own that begins with the release."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.arch.x86_64 import PTE_ADDRESS_MASK
from samepaged.attribution.guest_ram import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.attribution.guest_ram import GuestRam

__all__ = ["IMAGE", "IMAGE_SIZE", "MARK", "VmCoreInfo", "candidates", "parse"]

MARK: Final = b"OSRELEASE="
# Address of the kernel image, __START_KERNEL_map, and the range of KASLR from there (Documentation/arch/x86/x86_64/
# mm.rst).
IMAGE: Final = 0xFFFFFFFF80000000
IMAGE_SIZE: Final = 1 << 30
# Limit of notes to read, including old and forged ones.
MAX_NOTES: Final = 4096
# init_uts_ns has the release after the names of the system and the node, 65 bytes each (new_utsname).
UTS_BYTES: Final = 512
LINE: Final = re.compile(r"(SYMBOL|OFFSET|SIZE|NUMBER|LENGTH)\(([^()]{1,120})\)=(-?[0-9A-Fa-fx]{1,20})")
BUILD_ID: Final = re.compile(r"[0-9a-f]{8,64}")
RELEASE: Final = re.compile(r"[!-~]{1,64}")
# Values that differ from boot to boot.
BOOT_SPECIFIC: Final = frozenset({"phys_base", "sme_mask", "pgtable_l5_enabled"})


@dataclass(frozen=True, slots=True)
class VmCoreInfo:
    """One note. `symbols` are addresses (0 to 2**64 - 1); `offsets` ("page.flags"), `sizes` ("page") and `lengths` are
    as in the note; `numbers` are signed. `page` is the RAM page of the note, -1 if unknown.
    """

    release: str
    build_id: str | None
    symbols: dict[str, int]
    offsets: dict[str, int]
    sizes: dict[str, int]
    numbers: dict[str, int]
    lengths: dict[str, int]
    page: int = -1

    def symbol(self, name: str) -> int:
        """Return the address of a symbol. Raises Unreadable."""
        try:
            return self.symbols[name]
        except KeyError:
            raise Unreadable(f"VMCOREINFO without {name}") from None

    def physical(self, address: int) -> int:
        """Return the guest-physical address of an address in the kernel image. Raises Unreadable outside the image."""
        found = address - IMAGE + self.numbers.get("phys_base", 0)
        if not IMAGE <= address < IMAGE + IMAGE_SIZE or found < 0:
            raise Unreadable(f"{address:#x} is not in the kernel image")
        return found

    @property
    def levels(self) -> int:
        """Levels of page tables: 4 or 5."""
        return 5 if self.numbers.get("pgtable_l5_enabled") else 4

    @property
    def mask(self) -> int:
        """The address bits of a page table entry (without AMD's memory encryption bit)."""
        return PTE_ADDRESS_MASK & ~self.numbers.get("sme_mask", 0)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the kernel build, independent of the boot and of KASLR. Hexadecimal."""
        stext = self.symbol("_stext")
        numbers = {name: value for name, value in self.numbers.items() if name not in BOOT_SPECIFIC}
        symbols = {
            name: address - stext
            for name, address in self.symbols.items()
            if IMAGE <= address < IMAGE + IMAGE_SIZE  # others are values of pointers, such as mem_section
        }
        parts = (self.offsets, self.sizes, numbers, self.lengths, symbols)
        text = repr((self.release, self.build_id, [sorted(part.items()) for part in parts]))
        return hashlib.sha256(text.encode()).hexdigest()


def parse(raw: bytes, page: int = -1) -> VmCoreInfo:
    """Parse the note in a page's bytes. Raises Unreadable without a valid one."""
    if not raw.startswith(MARK):
        raise Unreadable("no VMCOREINFO")
    lines = raw[:PAGE_SIZE].partition(b"\0")[0].decode("ascii", "replace").split("\n")
    release = lines[0].removeprefix(MARK.decode())
    if not RELEASE.fullmatch(release):
        raise Unreadable("VMCOREINFO without a release")
    build_id = next((line.removeprefix("BUILD-ID=") for line in lines if line.startswith("BUILD-ID=")), None)
    if build_id is not None and not BUILD_ID.fullmatch(build_id):
        build_id = None
    values: dict[str, dict[str, int]] = {kind: {} for kind in ("SYMBOL", "OFFSET", "SIZE", "NUMBER", "LENGTH")}
    for kind, name, value in _values(lines):
        values[kind].setdefault(name, value)
    info = VmCoreInfo(
        release=release,
        build_id=build_id,
        symbols=values["SYMBOL"],
        offsets=values["OFFSET"],
        sizes=values["SIZE"],
        numbers=values["NUMBER"],
        lengths=values["LENGTH"],
        page=page,
    )
    for symbol in ("_stext", "swapper_pg_dir", "init_uts_ns"):
        info.physical(info.symbol(symbol))
    if "phys_base" not in info.numbers:
        raise Unreadable("VMCOREINFO without phys_base: kernel not for x86-64, or older than 4.10")
    return info


def candidates(ram: GuestRam, pages: Sequence[int]) -> list[VmCoreInfo]:
    """Return the notes of the running kernel in these RAM pages: those with the same release in init_uts_ns. Notes of
    earlier kernels, and copies in files, fail this check.
    """
    found = []
    for page in pages[:MAX_NOTES]:
        try:
            info = parse(ram.read(ram.layout.address_of(page), PAGE_SIZE), page)
            uts = ram.read(info.physical(info.symbol("init_uts_ns")), UTS_BYTES)
        except Unreadable:
            continue
        if b"\0" + info.release.encode() + b"\0" in uts:
            found.append(info)
    return found


def _values(lines: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None:
            continue
        kind, name, text = match.groups()
        try:
            value = int(text, 16 if kind == "SYMBOL" else 0)
        except ValueError:
            continue
        if (-(1 << 63) if kind == "NUMBER" else 0) <= value < 1 << 64:
            yield kind, name, value
