"""Pages that processes use: the leaves of each process's page tables, with their areas."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SHIFT, PAGE_SIZE
from samepaged.arch.x86_64 import PTE_NO_EXECUTE
from samepaged.attribution.linux.paging import walk_pieces
from samepaged.attribution.linux.vmas import find_areas
from samepaged.attribution.page_owners import KIND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from samepaged.attribution.linux.files import OpenFiles
    from samepaged.attribution.linux.kernel import Kernel
    from samepaged.attribution.linux.page_labels import PageLabels
    from samepaged.attribution.linux.paging import LeavesByRoot
    from samepaged.attribution.linux.processes import MemoryMaps
    from samepaged.attribution.linux.struct_page import StructPages
    from samepaged.attribution.linux.vmas import Areas

__all__ = ["FileAreas", "classify_file_areas", "label_users"]

# Hundreds of processes may share a large memory; at most this many mappings for each page of the guest are read.
MAX_MAPPINGS_PER_PAGE: Final = 24
MIN_MAX_MAPPINGS: Final = 1 << 20
# Processes of different names may share one memory map, such as a shell and the program that it starts. Only this many
# names are recorded for one map.
MAX_SHARERS: Final = 8
# Pages and roots processed together.
CHUNK_PAGES: Final = 1 << 18
CHUNK_ROOTS: Final = 512
LIBRARY: Final = re.compile(r".*\.so(\.[^/]*)?( \(deleted\))?", re.DOTALL)
EXECUTE: Final = 4
MODES: Final = 16
ANONYMOUS: Final = np.uint64(1)
USER_HALF: Final = 256
NO_EXECUTE: Final = np.uint64(PTE_NO_EXECUTE)


@dataclass(frozen=True, slots=True)
class FileAreas:
    """Classification of n areas: `kinds` (uint8, numbers in KINDS; for an area with a file, the kind of the file's own
    pages), `labels` (int32), and `mappings` (uint64), the struct address_space of its file, 0 without one.
    """

    kinds: NDArray[np.uint8]
    labels: NDArray[np.int32]
    mappings: NDArray[np.uint64]


def classify_file_areas(areas: Areas, files: NDArray[np.uint64], found: OpenFiles, ledger: PageLabels) -> FileAreas:
    """Classify areas by their files. `files` are the struct files, ascending, that `found` describes."""
    kinds = np.full(len(areas.maps), KIND["anonymous"], dtype=np.uint8)
    kinds[areas.heap] = KIND["heap"]
    kinds[areas.stack] = KIND["stack"]
    kinds[areas.special] = KIND["special"]
    plain = {"anonymous": "anon", "heap": "heap", "stack": "stack", "special": "vdso"}
    labels = np.zeros(len(areas.maps), dtype=np.int32)
    for kind, name in plain.items():
        labels[kinds == KIND[kind]] = ledger.label(name)
    for place, called in enumerate(areas.names):
        if called is not None:
            labels[place] = ledger.label(called)
    mappings = np.zeros(len(areas.maps), dtype=np.uint64)
    backed = np.flatnonzero(areas.files)
    if len(backed):
        which = np.searchsorted(files, areas.files[backed])
        mappings[backed] = found.mappings[which]
        executable = np.isin(found.mappings, mappings[backed[areas.modes[backed] & EXECUTE != 0]])
        of_files = np.where(executable, KIND["executable"], KIND["mapped_file"])
        of_files[[bool(path and LIBRARY.fullmatch(path)) for path in found.paths]] = KIND["library"]
        of_files[found.in_memory] = KIND["shmem"]
        kinds[backed] = of_files[which]
        labels[backed] = ledger.labels_of(found.paths)[which]
    return FileAreas(kinds, labels, mappings)


def label_users(
    kernel: Kernel,
    frames: StructPages,
    maps: MemoryMaps,
    known: tuple[Areas, FileAreas],
    zeros: NDArray[np.int64],
    ledger: PageLabels,
) -> bool:
    """Label all pages that processes map, except the zero pages (`zeros`), and the processes' page tables. Return False
    if the limit of mappings was exceeded.
    """
    ledger.processes = list(maps.names)
    uses = _PageUsers(maps, ledger)
    left = max(MAX_MAPPINGS_PER_PAGE * kernel.ram.pages, MIN_MAX_MAPPINGS)
    counts = np.ones(kernel.ram.pages + 1, dtype=np.bool_)
    counts[zeros] = False
    counts[-1] = False
    complete = True
    for piece in walk_pieces(kernel.ram, maps.roots, kernel.info.levels, upper=False, mask=kernel.info.mask):
        complete &= piece.complete
        tables = kernel.ram.layout.page_of(piece.tables)
        ledger.set_kind(tables, "page_table", "page tables")
        uses.write(tables, piece.table_roots)
        for leaves in _single(piece):
            left -= len(leaves.addresses)
            if left < 0:
                return False
            _label(kernel, frames, known, counts, leaves, uses)
    _second_tables(kernel, maps, ledger)
    return complete


class _PageUsers:
    """Records the users of pages: translates memory maps into the processes that have them."""

    def __init__(self, maps: MemoryMaps, ledger: PageLabels) -> None:
        self.ledger = ledger
        by_map, names = maps.users
        # Nearly all maps belong to one process. `names[rank]` has each map's rank-th process, -1 for none.
        rank = np.arange(len(by_map)) - np.searchsorted(by_map, by_map)
        self.names = np.full((min(int(rank.max(initial=0)) + 1, MAX_SHARERS), len(maps.addresses)), -1, dtype=np.int64)
        kept = rank < MAX_SHARERS
        self.names[rank[kept], by_map[kept]] = names[kept]

    def write(self, pages: NDArray[np.int64], maps: NDArray[np.int32]) -> None:
        for named in self.names:
            processes = named[maps]
            if np.all(processes >= 0):
                self.ledger.add_users(pages, processes)
            else:
                self.ledger.add_users(pages[processes >= 0], processes[processes >= 0])


def _single(piece: LeavesByRoot) -> Iterator[LeavesByRoot]:
    """Yield the leaves as single pages, about CHUNK_PAGES at a time."""
    if np.all(piece.pages == 1):
        yield piece
        return
    ends = np.cumsum(piece.pages)
    for start in range(0, int(ends[-1]), CHUNK_PAGES):
        place = np.arange(start, min(start + CHUNK_PAGES, int(ends[-1])), dtype=np.int64)
        leaf = np.searchsorted(ends, place, side="right")
        within = (place - (ends[leaf] - piece.pages[leaf])) << PAGE_SHIFT
        yield replace(
            piece,
            addresses=piece.addresses[leaf] + within,
            physical=piece.physical[leaf] + within,
            pages=np.ones(len(leaf), dtype=np.int64),
            entries=piece.entries[leaf],
            roots=piece.roots[leaf],
        )


def _label(
    kernel: Kernel,
    frames: StructPages,
    known: tuple[Areas, FileAreas],
    counts: NDArray[np.bool_],
    leaves: LeavesByRoot,
    uses: _PageUsers,
) -> None:
    areas, sorted_ = known
    ledger = uses.ledger
    pages = kernel.ram.layout.page_of(leaves.physical)
    area = find_areas(areas, leaves.roots, leaves.addresses)
    chosen = np.flatnonzero(counts[pages] & (area >= 0))
    pages, area, owners = pages[chosen], area[chosen], leaves.roots[chosen]
    uses.write(pages, owners)
    modes = areas.modes[area]
    for mode in np.flatnonzero(np.bincount(modes, minlength=MODES)).tolist():
        ledger.modes[pages[modes == mode]] |= np.uint16(1 << mode)
    backed = areas.files[area] != 0
    mapping = frames.mapping[frames.head[pages]]
    copied = backed & (mapping & ANONYMOUS != 0)
    kinds = np.where(copied, np.uint8(KIND["private_file"]), sorted_.kinds[area])
    # An earlier label is better if its kind is more specific, or if it is that of the page's own file.
    before = ledger.kinds[pages]
    write = np.flatnonzero((before == 0) | (before >= kinds))
    write = write[np.argsort(kinds[write], kind="stable")[::-1]]
    own = (mapping == sorted_.mappings[area]) | copied | ~backed | (ledger.offsets[pages] < 0)
    ledger.kinds[pages[write]] = kinds[write]
    write = write[own[write]]
    pages, area = pages[write], area[write]
    ledger.labels[pages] = sorted_.labels[area]
    there = (leaves.addresses[chosen[write]] >> PAGE_SHIFT) - areas.first[area] + areas.end_pages[area]
    ledger.offsets[pages] = np.where(backed[write] & (there >= 0), there << PAGE_SHIFT, -1)


def _second_tables(kernel: Kernel, maps: MemoryMaps, ledger: PageLabels) -> None:
    """Label the user's root tables under page table isolation; each one is next to the kernel's root."""
    all_roots = np.unique(maps.roots[(maps.roots >= 0) & (maps.roots & PAGE_SIZE == 0)])
    for first in range(0, len(all_roots), CHUNK_ROOTS):
        roots = all_roots[first : first + CHUNK_ROOTS]
        ours, held = kernel.ram.gather(roots, PAGE_SIZE)
        theirs, there = kernel.ram.gather(roots | PAGE_SIZE, PAGE_SIZE)
        ours, theirs = ours[:, :USER_HALF] & ~NO_EXECUTE, theirs[:, :USER_HALF] & ~NO_EXECUTE
        same = held & there & np.all(ours == theirs, axis=1) & np.any(ours != 0, axis=1)
        ledger.set_kind_of_unknown(kernel.ram.layout.page_of(roots[same] | PAGE_SIZE), "page_table", "page tables")
