"""The kernel's own symbol table (kernel/kallsyms.c): packed names, and addresses in one of three encodings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.kallsyms.names import MAX_SYMBOLS, TOKENS, PackedNames, name_starts, tokens
from samepaged.attribution.linux.kallsyms.search import find_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from samepaged.attribution.linux.paging import PageTableLeaves
    from samepaged.attribution.linux.virtual_memory import Memory
    from samepaged.attribution.linux.vmcoreinfo import VmCoreInfo

__all__ = ["Symbols", "read_symbols"]

# Limits: packed names, more than any kernel has; and the token table, which has offsets of 16 bits.
MAX_NAMES_BYTES: Final = 8 << 20
MAX_TOKEN_TABLE_BYTES: Final = 1 << 16
TABLES: Final = (
    "kallsyms_names",
    "kallsyms_num_syms",
    "kallsyms_token_table",
    "kallsyms_token_index",
    "kallsyms_offsets",
)


@dataclass(frozen=True, slots=True)
class Symbols:
    """All symbols: `addresses` (uint64, (n,)), in no order, and as many names."""

    addresses: NDArray[np.uint64]
    names: PackedNames

    def find(self, stems: Collection[str]) -> list[tuple[str, int]]:
        """Return name and address of every symbol with one of these names before its first dot: compilers add suffixes
        (`copy_process.isra.0`). Raises Unreadable.
        """
        return [(name, int(self.addresses[number])) for number, name in self.names.find(stems)]

    def ends(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the address of the next symbol after each address; the address itself if it is the last."""
        ordered = np.unique(self.addresses)
        place = np.searchsorted(ordered, addresses, side="right")
        return np.where(place < len(ordered), ordered[np.minimum(place, len(ordered) - 1)], addresses)


def read_symbols(memory: Memory, info: VmCoreInfo, page_tables: PageTableLeaves) -> Symbols:
    """Read the symbol table. Raises Unreadable if it is missing, or does not agree with VMCOREINFO."""
    where: Mapping[str, int] = info.symbols  # since 6.0
    if not all(name in where for name in TABLES):
        where = find_tables(memory, page_tables, info.symbol("_stext"))
    count = int.from_bytes(memory.read(where["kallsyms_num_syms"], 4), "little")
    if not 0 < count <= MAX_SYMBOLS:
        raise Unreadable(f"invalid number of symbols: {count}")
    index = np.frombuffer(memory.read(where["kallsyms_token_index"], 2 * TOKENS), dtype="<u2")
    table = memory.read(where["kallsyms_token_table"], _room(where, "kallsyms_token_table", MAX_TOKEN_TABLE_BYTES))
    raw = _names(memory, where, count)
    names = PackedNames(raw, name_starts(raw, count), tokens(table, index))
    known = {name: info.symbol(name) for name in ("_stext", "swapper_pg_dir", "init_uts_ns")}
    places = {name: number for number, name in names.find(known) if name in known}
    if "_stext" not in places:
        raise Unreadable("symbols without _stext")
    for addresses in _encodings(memory, where, count):
        if all(int(addresses[number]) == known[name] for name, number in places.items()):
            return Symbols(addresses, names)
    raise Unreadable("symbol addresses differ from VMCOREINFO")


def _room(where: Mapping[str, int], name: str, most: int) -> int:
    """Return the number of bytes until the next table."""
    start = where[name]
    after = [other for key, other in where.items() if key.startswith("kallsyms_") and other > start]
    return min([most, *(other - start for other in after)])


def _names(memory: Memory, where: Mapping[str, int], count: int) -> bytes:
    room = _room(where, "kallsyms_names", MAX_NAMES_BYTES)
    # If the next table is unknown, the mapped memory may end before the maximum size of the names.
    for size in (min(room, 24 * count), min(room, 64 * count), room):
        raw = memory.read(where["kallsyms_names"], size)
        try:
            name_starts(raw, count)
        except Unreadable:
            continue
        return raw
    raise Unreadable("truncated symbol names")


def _encodings(memory: Memory, where: Mapping[str, int], count: int) -> Iterator[NDArray[np.uint64]]:
    """Yield the addresses in each known encoding."""
    at = where["kallsyms_offsets"]
    # Unsigned arrays, which wrap around like addresses, for any values.
    offsets = np.frombuffer(memory.read(at, 4 * count), dtype="<i4")
    signed = offsets.astype(np.int64).view(np.uint64)
    if "kallsyms_relative_base" in where:
        base = np.frombuffer(memory.read(where["kallsyms_relative_base"], 8), dtype="<u8")
        # With CONFIG_KALLSYMS_ABSOLUTE_PERCPU, a non-negative offset is an address, such as of a per-CPU variable.
        yield np.where(offsets < 0, base - np.uint64(1) - signed, signed)
        yield base + offsets.view(np.uint32)
    # Since 7.0, an offset is relative to its own address.
    yield np.array([at], dtype=np.uint64) + np.arange(count, dtype=np.uint64) * np.uint64(4) + signed
