"""The areas (struct vm_area_struct) of all memory maps, and the area of each page table leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SHIFT
from samepaged.attribution.linux.mapletree import maple_entries
from samepaged.attribution.linux.rbtree import rb_nodes
from samepaged.attribution.linux.struct_reader import is_kernel, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.processes import MemoryMaps

__all__ = ["Areas", "find_areas", "read_areas"]

# A process may have 65,530; all processes of a guest together rarely reach this limit.
MAX_AREAS: Final = 1 << 20
# User addresses have at most 56 bits; these bits count pages, and the map's number is above them.
PAGE_BITS: Final = 44
# include/linux/mm.h: the lowest three flags of an area are r, w and x. A shared mapping of a file that is open only
# for reading lacks VM_SHARED; /proc/PID/maps uses VM_MAYSHARE.
RIGHTS: Final = np.uint64(7)
MAY_SHARE, SHARED = np.uint64(0x80), np.uint64(8)
MAX_NAME_BYTES: Final = 80
MAX_NAMED_AREAS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Areas:
    """The areas of n maps by map and start. Areas of one map do not overlap.

    `maps` (int64): index of the map. `first` (int64): page number (address ÷ 4096). `keys` and `keys_end` (int64): the
    first page and the page after the last, with the map's index in the upper bits. `end_pages` (int64): page of the
    file that `first` maps. `modes` (uint8): as in page_owners.permissions. `files` (uint64): struct files, 0 for none.
    `special`, `heap`, `stack`: kind of an area without a file. `names`: its name, or None.
    """

    maps: NDArray[np.int64]
    first: NDArray[np.int64]
    keys: NDArray[np.int64]
    keys_end: NDArray[np.int64]
    end_pages: NDArray[np.int64]
    modes: NDArray[np.uint8]
    files: NDArray[np.uint64]
    special: NDArray[np.bool_]
    heap: NDArray[np.bool_]
    stack: NDArray[np.bool_]
    names: list[str | None]


def read_areas(kernel: Kernel, maps: MemoryMaps) -> Areas:
    """Read the areas of all maps. Raises Unreadable."""
    profile = kernel.profile
    structs, found_in = _structs(kernel, maps)
    members = ("vm_start", "vm_end", "vm_flags", "vm_file", "vm_pgoff", "vm_ops", "vm_private_data", "vm_mm")
    wanted = [profile.offset(f"vm_area_struct.{name}") for name in members]
    (starts, ends, *_, own), ok = read_members(kernel, structs, wanted)
    # An area of another map, or a freed one, has another vm_mm.
    ok &= (own == maps.addresses[found_in]) & (starts < ends) & (ends >> np.uint64(PAGE_SHIFT + PAGE_BITS) == 0)
    structs, owners = structs[ok], found_in[ok].astype(np.int64)
    order = np.lexsort((starts[ok], owners))
    structs, owners = structs[order], owners[order]
    (starts, ends, flags, files, within, operations, private, _), _ = read_members(kernel, structs, wanted)
    first, end = (starts >> np.uint64(PAGE_SHIFT)).astype(np.int64), (ends >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    # Overlapping areas are forged: the first one gets the overlap.
    previous = np.zeros(len(first), dtype=np.int64)
    keys = (owners << PAGE_BITS) + end
    if len(keys):
        previous[1:] = np.maximum.accumulate(keys)[:-1] - (owners[1:] << PAGE_BITS)
    first_shown = np.maximum(first, np.minimum(previous, end))
    bare = ~is_kernel(files)
    special, names = _names(kernel, bare, operations, private, structs)
    heaps, heap_ends, stacks = maps.heaps[owners], maps.heap_ends[owners], maps.stacks[owners]
    return Areas(
        maps=owners,
        first=first_shown,
        keys=(owners << PAGE_BITS) + first_shown,
        keys_end=keys,
        end_pages=within.view(np.int64) + (first_shown - first),
        modes=(flags & RIGHTS | np.where(flags & MAY_SHARE, SHARED, np.uint64(0))).astype(np.uint8),
        files=np.where(bare, np.uint64(0), files),
        special=special,
        heap=bare & ~special & (starts <= heap_ends) & (ends >= heaps),
        stack=bare & ~special & (starts <= stacks) & (ends >= stacks),
        names=names,
    )


def find_areas(known: Areas, maps: NDArray[np.int32], addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the area of map `maps[i]` at `addresses[i]`, -1 if there is none."""
    if not len(known.maps):
        return np.full(len(addresses), -1, dtype=np.int64)
    keys = (maps.astype(np.int64) << PAGE_BITS) + (addresses >> PAGE_SHIFT)
    place = np.searchsorted(known.keys, keys, side="right") - 1
    return np.where((place >= 0) & (keys < known.keys_end[place]), place, -1)


def _structs(kernel: Kernel, maps: MemoryMaps) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    profile = kernel.profile
    if profile.has("mm_struct.mm_mt.ma_root"):  # from 6.1, commit d4af56c5c7c6: a maple tree
        (roots,), _ = read_members(kernel, maps.addresses, (profile.offset("mm_struct.mm_mt.ma_root"),))
        return maple_entries(kernel, roots, MAX_AREAS)
    (roots,), _ = read_members(kernel, maps.addresses, (profile.offset("mm_struct.mm_rb.rb_node"),))
    left, right = profile.offset("rb_node.rb_left"), profile.offset("rb_node.rb_right")
    nodes, owners = rb_nodes(kernel, roots, left, right, MAX_AREAS)
    return nodes - np.uint64(profile.offset("vm_area_struct.vm_rb")), owners


def _names(
    kernel: Kernel,
    bare: NDArray[np.bool_],
    operations: NDArray[np.uint64],
    private: NDArray[np.uint64],
    structs: NDArray[np.uint64],
) -> tuple[NDArray[np.bool_], list[str | None]]:
    """Return a mask of the special areas, such as the vdso, and the names of areas without a file."""
    profile = kernel.profile
    names: list[str | None] = [None] * len(bare)
    wanted = [profile.symbols.get(name, 1) for name in ("special_mapping_vmops", "special_mapping_legacy_vmops")]
    special = bare & np.isin(operations, np.array(wanted, dtype=np.uint64))
    places = np.flatnonzero(special & (operations == wanted[0]))[:MAX_NAMED_AREAS]
    if profile.has("vm_special_mapping.name"):
        (pointers,), _ = read_members(kernel, private[places], (profile.offset("vm_special_mapping.name"),))
        _write(names, places, kernel.strings(pointers, MAX_NAME_BYTES), "{}")
    if profile.has("vm_area_struct.anon_name") and profile.has("anon_vma_name.name"):
        places = np.flatnonzero(bare & ~special)
        (pointers,), _ = read_members(kernel, structs[places], (profile.offset("vm_area_struct.anon_name"),))
        named = np.flatnonzero(pointers)[:MAX_NAMED_AREAS]
        texts = kernel.strings(pointers[named] + np.uint64(profile.offset("anon_vma_name.name")), MAX_NAME_BYTES)
        _write(names, places[named], texts, "anon {}")
    return special, names


def _write(names: list[str | None], places: NDArray[np.int64], texts: list[str | None], form: str) -> None:
    for place, text in zip(places.tolist(), texts, strict=True):
        if text:
            names[place] = form.format(text.strip("[]"))
