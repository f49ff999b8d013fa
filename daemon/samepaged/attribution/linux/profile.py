"""Profile of a kernel build: field offsets, sizes, enumerators, symbols. A cached profile avoids the search."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux import kernel_schema
from samepaged.attribution.linux.btf import MAX_BTF_BYTES, Btf
from samepaged.attribution.linux.kallsyms.symbols import read_symbols
from samepaged.attribution.linux.vmcoreinfo import IMAGE, IMAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from samepaged.attribution.linux.kallsyms.symbols import Symbols
    from samepaged.attribution.linux.paging import PageTableLeaves
    from samepaged.attribution.linux.virtual_memory import Memory
    from samepaged.attribution.linux.vmcoreinfo import VmCoreInfo

__all__ = ["Profile"]

Caller = tuple[int, int, str]
# Limits of a document: above the number of names in the schema, and the valid range of values.
MAX_NAMES: Final = 1024
MAX_NAME_CHARS: Final = 128
MAX_OFFSET_BYTES: Final = 1 << 32
DOCUMENT_KEYS: Final = frozenset({"fingerprint", "typed", "offsets", "sizes", "enumerators", "symbols", "callers"})
FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
# Address of _stext without KASLR.
NOMINAL_STEXT: Final = IMAGE + (16 << 20)
BTF_ENDS: Final = ("__start_BTF", "__stop_BTF")
# Functions are far smaller; after the last one of a section, the next symbol may be far away.
MAX_FUNCTION_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Profile:
    """The names of kernel_schema.py that this kernel has. `offsets` ("task_struct.mm", bytes), `sizes` ("page", bytes)
    and `enumerators` include VMCOREINFO's offsets and sizes under the same names. `symbols` are addresses for a boot
    with _stext at `stext`; per-CPU symbols are offsets, and small. `callers`: functions as (start, end, name),
    ascending, without overlaps. `fingerprint` is the one of the build's VmCoreInfo. `has_types`: whether type
    information was available; if not, the profile has only VMCOREINFO's offsets and sizes.
    """

    fingerprint: str
    stext: int
    offsets: dict[str, int]
    sizes: dict[str, int]
    enumerators: dict[str, int]
    symbols: dict[str, int]
    callers: tuple[Caller, ...]
    has_types: bool = True

    def offset(self, *names: str) -> int:
        """Return the offset of the first of these fields that exists. Raises Unreadable without one."""
        return _first(self.offsets, names)

    def size(self, *names: str) -> int:
        """Return the size of the first of these types that exists. Raises Unreadable without one."""
        return _first(self.sizes, names)

    def enumerator(self, *names: str) -> int:
        """Return the value of the first of these enumerators that exists. Raises Unreadable without one."""
        return _first(self.enumerators, names)

    def symbol(self, *names: str) -> int:
        """Return the address of the first of these symbols that exists. Raises Unreadable without one."""
        return _first(self.symbols, names)

    def has(self, name: str) -> bool:
        """Whether the profile has a field, size, enumerator or symbol of this name."""
        return any(name in known for known in (self.offsets, self.sizes, self.enumerators, self.symbols))

    def relocated(self, stext: int) -> Profile:
        """Return the profile for a boot with _stext at this address. Raises Unreadable if the address is invalid."""
        by = stext - self.stext
        moved = {name: address + by for name, address in self.symbols.items() if _in_image(address)}
        callers = tuple((start + by, end + by, name) for start, end, name in self.callers)
        if not all(_in_image(address) for address in (*moved.values(), *(end for _, end, _ in callers))):
            raise Unreadable(f"invalid address of _stext: {stext:#x}")
        return replace(self, stext=stext, symbols=self.symbols | moved, callers=callers)

    def to_document(self) -> dict[str, object]:
        """Return the profile as an object for JSON, relative to _stext, so independent of KASLR."""
        nominal = self.relocated(NOMINAL_STEXT)
        return {
            "fingerprint": self.fingerprint,
            "typed": self.has_types,
            "offsets": self.offsets,
            "sizes": self.sizes,
            "enumerators": self.enumerators,
            "symbols": nominal.symbols,
            "callers": [list(caller) for caller in nominal.callers],
        }

    @classmethod
    def from_document(cls, document: object) -> Profile:
        """Read the result of to_document, with strict checks. The addresses are those of a kernel without KASLR: see
        `relocated`. Raises Unreadable.
        """
        if not isinstance(document, dict) or set(document) != DOCUMENT_KEYS:
            raise Unreadable("invalid profile")
        fingerprint, typed = document["fingerprint"], document["typed"]
        if not isinstance(fingerprint, str) or not FINGERPRINT.fullmatch(fingerprint) or not isinstance(typed, bool):
            raise Unreadable("invalid profile: fingerprint or typed")
        return cls(
            fingerprint=fingerprint,
            stext=NOMINAL_STEXT,
            offsets=_numbers(document["offsets"], 0, MAX_OFFSET_BYTES),
            sizes=_numbers(document["sizes"], 0, MAX_OFFSET_BYTES),
            enumerators=_numbers(document["enumerators"], -(1 << 63), 1 << 64),
            symbols=_numbers(document["symbols"], 0, 1 << 64),
            callers=_callers(document["callers"]),
            has_types=typed,
        )

    @classmethod
    def read(cls, memory: Memory, info: VmCoreInfo, mapped: PageTableLeaves, btf: bytes | None = None) -> Profile:
        """Read the running kernel: its symbols, and its types. The types come from the kernel, else from `btf`; without
        either, only VMCOREINFO's offsets and sizes remain. Raises Unreadable without readable symbols.
        """
        table = read_symbols(memory, info, mapped)
        found: dict[str, list[int]] = {}
        for name, address in table.find({*kernel_schema.SYMBOLS, *kernel_schema.CALLERS, *BTF_ENDS}):
            found.setdefault(name, []).append(address)
        types = _types(memory, info, found, btf)
        own = {
            name: address
            for name, address in info.symbols.items()
            if name in kernel_schema.SYMBOLS and _in_image(address)
        }
        return cls(
            fingerprint=info.fingerprint,
            stext=info.symbol("_stext"),
            offsets=_known(kernel_schema.FIELDS, types.offset if types else None) | info.offsets,
            sizes=_known(kernel_schema.SIZES, types.size if types else None) | info.sizes,
            enumerators=_known(kernel_schema.ENUMERATORS, types.enumerator if types else None),
            symbols=own | {name: found[name][0] for name in kernel_schema.SYMBOLS if name in found},
            callers=_functions(table, found),
            has_types=types is not None,
        )


def _first(known: Mapping[str, int], names: Iterable[str]) -> int:
    for name in names:
        if name in known:
            return known[name]
    raise Unreadable(f"kernel without {' or '.join(names)}")


def _in_image(address: int) -> bool:
    return IMAGE <= address < IMAGE + IMAGE_SIZE


def _known(names: Iterable[str], ask: Callable[[str], int] | None) -> dict[str, int]:
    found: dict[str, int] = {}
    if ask is not None:
        for name in names:
            with suppress(Unreadable):
                found[name] = ask(name)
    return found


def _types(memory: Memory, info: VmCoreInfo, found: Mapping[str, Sequence[int]], given: bytes | None) -> Btf | None:
    """Return the kernel's own types, or the given ones, if their sizes match VMCOREINFO."""
    start, stop = (found.get(name, [0])[0] for name in BTF_ENDS)
    with suppress(Unreadable):
        types = Btf(memory.read(start, stop - start if stop - start <= MAX_BTF_BYTES else 0))
        if _match_vmcoreinfo(types, info):
            return types
    with suppress(Unreadable):
        types = Btf(given or b"")
        if _match_vmcoreinfo(types, info):
            return types
    return None


def _match_vmcoreinfo(types: Btf, info: VmCoreInfo) -> bool:
    return all(_size_agrees(types, name, size) for name, size in info.sizes.items())


def _size_agrees(types: Btf, name: str, size: int) -> bool:
    try:
        return types.size(name) == size
    except Unreadable:
        return True


def _functions(table: Symbols, found: Mapping[str, Sequence[int]]) -> tuple[Caller, ...]:
    """Return the functions of the schema and their parts, as (start, end, name)."""
    named = {address: name for name, addresses in found.items() for address in addresses if _in_image(address)}
    starts = np.array(sorted(named), dtype=np.uint64)
    callers: list[Caller] = []
    for start, end in zip(starts.tolist(), table.ends(starts).tolist(), strict=True):
        stem = named[start].partition(".")[0]
        if stem in kernel_schema.CALLERS and start < end <= start + MAX_FUNCTION_BYTES and _in_image(end):
            callers.append((start, end, stem))
    return tuple(callers[:MAX_NAMES])


def _numbers(part: object, least: int, below: int) -> dict[str, int]:
    if not isinstance(part, dict) or len(part) > MAX_NAMES:
        raise Unreadable("invalid profile: numbers")
    for name, value in part.items():
        if (
            not isinstance(name, str)
            or len(name) > MAX_NAME_CHARS
            or type(value) is not int
            or not least <= value < below
        ):
            raise Unreadable("invalid profile: number out of range")
    return part


def _callers(part: object) -> tuple[Caller, ...]:
    if not isinstance(part, list) or len(part) > MAX_NAMES:
        raise Unreadable("invalid profile: callers")
    found: list[Caller] = []
    least = 0
    for caller in part:
        if not isinstance(caller, list) or [type(value) for value in caller] != [int, int, str]:
            raise Unreadable("invalid profile: caller")
        start, end, name = caller
        if not least <= start < end or not (_in_image(start) and _in_image(end)) or len(name) > MAX_NAME_CHARS:
            raise Unreadable("invalid profile: caller")
        least = end
        found.append((start, end, name))
    return tuple(found)
