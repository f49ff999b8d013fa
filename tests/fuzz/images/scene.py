"""An image that can be damaged and restored, and the memory that the analysis reads in the intact image."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import PAGE_WORDS, GuestRam
from samepaged.attribution.kernel_analysis import LinuxAnalysis
from samepaged.attribution.linux.kallsyms.search import find_tables
from samepaged.attribution.linux.kernel import Kernel
from samepaged.attribution.linux.labelling import label_pages
from samepaged.attribution.linux.mem_map import find_mem_map
from samepaged.attribution.linux.processes import read_memory_maps
from samepaged.attribution.linux.profile import Profile
from samepaged.attribution.linux.struct_reader import read_members
from samepaged.attribution.linux.vmas import read_areas
from samepaged.attribution.linux.vmcoreinfo import MARK
from samepaged.attribution.ram_map import ram_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.ram_map import RamMap

__all__ = ["Image", "Read", "Scene"]

# Modules that read for others: their caller is the module that needs the data.
GO_BETWEENS: Final = frozenset({"members", "virtual", "kernel", "scene", "ram"})

# The start of BTF: magic, version, flags (0), 24 bytes of header.
BTF_HEADER: Final = b"\x9f\xeb\x01\0\x18\0\0\0\0\0\0\0"
BTF_PAGES: Final = 1200


class Image:
    """A guest's RAM, uint64 of shape (pages, 512), that can be changed and restored."""

    def __init__(self, path: Path) -> None:
        # As a plain array, because indexing a memmap is slower.
        self.words: NDArray[np.uint64] = np.asarray(np.memmap(path, dtype=np.uint64, mode="c")).reshape(-1, PAGE_WORDS)
        self._flat = self.words.reshape(-1)
        self._before: dict[int, NDArray[np.uint64]] = {}

    @property
    def pages(self) -> int:
        return len(self.words)

    def at(self, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the words at these places (word numbers in the whole image)."""
        return np.array(self._flat[places])

    def put(self, places: NDArray[np.int64], values: NDArray[np.uint64]) -> None:
        """Change words; places outside of the image are ignored."""
        places, values = np.broadcast_arrays(places, values)
        inside = (places >= 0) & (places < len(self._flat))
        self._keep(np.unique(places[inside] // PAGE_WORDS))
        self._flat[places[inside]] = values[inside]

    def page(self, number: int) -> NDArray[np.uint64]:
        """Return a page for writing."""
        self._keep(np.array([number]))
        found: NDArray[np.uint64] = self.words[number]
        return found

    def mend(self) -> None:
        """Restore the original content."""
        for number, row in self._before.items():
            self.words[number] = row
        self._before.clear()

    @property
    def damaged(self) -> int:
        """Number of changed pages."""
        return len(self._before)

    def _keep(self, pages: NDArray[np.int64]) -> None:
        for number in pages.tolist():
            if number not in self._before:
                self._before[number] = np.array(self.words[number])


@dataclass
class Read:
    """Structs that a part of the analysis reads: their virtual addresses, and the number of bytes read from each."""

    addresses: NDArray[np.uint64]
    size: int


@dataclass
class _Log:
    reads: dict[tuple[str, int], list[NDArray[np.uint64]]] = field(default_factory=lambda: defaultdict(list))
    words: list[NDArray[np.int64]] = field(default_factory=list)

    def note(self, addresses: NDArray[np.uint64], size: int) -> None:
        frame = sys._getframe(2)
        while frame.f_back is not None and Path(frame.f_code.co_filename).stem in GO_BETWEENS:
            frame = frame.f_back
        self.reads[Path(frame.f_code.co_filename).stem, size].append(addresses.reshape(-1))


_LOG = _Log()


class _WatchedRam(GuestRam):
    def gather(self, addresses: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        found, ok = super().gather(addresses, size)
        _LOG.words.append(((addresses[ok] >> 3)[:, None] + np.arange(size >> 3)).reshape(-1))
        return found, ok

    def word(self, address: int) -> int | None:
        if self.layout.page_at(address) >= 0:
            _LOG.words.append(np.array([address >> 3]))
        return super().word(address)


class _Watched(Kernel):
    """Records the structs that are read, and the module that reads them."""

    def gather(self, addresses: NDArray[np.uint64], size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        _LOG.note(addresses, size)
        return super().gather(addresses, size)

    def words(self, addresses: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        _LOG.note(addresses, 8)
        return super().words(addresses)

    def word(self, address: int) -> int | None:
        _LOG.note(np.array([address], dtype=np.uint64), 8)
        return super().word(address)

    def strings(self, addresses: NDArray[np.uint64], most: int = 256) -> list[str | None]:
        _LOG.note(addresses & ~np.uint64(7), 9)  # 9: structs never have this size
        return super().strings(addresses, most)


class Scene:
    """An image of one region, its kernel, and the places of its objects.

    `reads`: the structs that each module of the analysis reads, by the module's name; `strings`: addresses of texts.
    `words` (int64): the places of all words that are read individually, `pointers`: the kernel addresses among them.
    `warm`: the pages that every scan reads; `cold`: the pages that only the first scan reads in addition.
    """

    def __init__(self, path: Path) -> None:
        image = self.image = Image(path)
        self.layout: RamMap = next(ram_maps("q35", image.pages * PAGE_SIZE))
        self.notes = self.find_notes()
        _LOG.reads.clear()
        _LOG.words.clear()
        cold = GuestRam(image.words, self.layout)
        self.kernel = Kernel.open(cold, self.notes.tolist())
        # Profile.read does not record the pages that it touches.
        self.cold = self._cold_pages()
        self.profile = LinuxAnalysis().profile(self.kernel)
        ram = _WatchedRam(image.words, self.layout)
        watched = _Watched.open(ram, self.notes.tolist(), Profile.from_document(self.kernel.profile.to_document()))
        self.ownership: PageOwners = label_pages(watched)
        self.warm = np.flatnonzero(ram.touched)
        self.words = np.unique(np.concatenate(_LOG.words))
        values = image.at(self.words)
        points = self.kernel.translate(values & ~np.uint64(0xFF)) >= 0
        self.pointers = self.words[(values >= np.uint64(1 << 63)) & points]
        self.reads: dict[str, list[Read]] = defaultdict(list)
        texts = []
        for (module, size), parts in _LOG.reads.items():
            addresses = np.unique(np.concatenate(parts))
            addresses = addresses[self.place(addresses) >= 0]
            if not len(addresses):
                continue
            if size == 9:
                texts.append(addresses)
            else:
                self.reads[module].append(Read(addresses, size))
        self.strings = np.unique(np.concatenate(texts))
        mapped = self.kernel.page_tables
        real = mapped.physical < image.pages * PAGE_SIZE
        bases, which = np.unique((mapped.addresses - mapped.physical)[real], return_inverse=True)
        self.direct = int(bases[np.bincount(which, weights=mapped.pages[real]).argmax()]) % (1 << 64)
        self.array = find_mem_map(self.kernel)
        maps = read_memory_maps(self.kernel)
        self.maps, self.roots = maps.addresses, maps.roots
        files = read_areas(self.kernel, maps).files
        (mounts,), _ = read_members(
            self.kernel, np.unique(files[files != 0]), (self.kernel.profile.offset("file.f_path.mnt"),)
        )
        self.mounts = np.unique(mounts)
        free = np.flatnonzero(self.ownership.kinds == 1)
        # Unused memory, in which a guest has room for forged structures.
        self.room = np.setdiff1d(free[1:-1], self.warm)

    def place(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the places of the words at virtual addresses, by the kernel's page tables; -1 if unmapped."""
        physical = self.kernel.translate(addresses)
        return np.where((physical >= 0) & (physical < self.image.pages * PAGE_SIZE), physical >> 3, -1)

    def address(self, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the virtual addresses of words, in the kernel's direct map."""
        return np.uint64(self.direct) + (places.astype(np.uint64) << np.uint64(3))

    def find_notes(self) -> NDArray[np.int64]:
        """Return the pages that begin like VMCOREINFO, by the same test as the daemon."""
        first = np.ascontiguousarray(self.image.words[:, :2]).view(np.uint8)
        return np.flatnonzero(np.all(first[:, : len(MARK)] == np.frombuffer(MARK, dtype=np.uint8), axis=1))

    def _cold_pages(self) -> dict[str, NDArray[np.int64]]:
        """Return the pages of the symbol tables and of the types."""
        image, kernel = self.image, self.kernel
        start = image.words.tobytes().find(BTF_HEADER)
        found = {"btf": np.arange(start // PAGE_SIZE, min(start // PAGE_SIZE + BTF_PAGES, image.pages))}
        tables = {name: at for name, at in kernel.info.symbols.items() if name.startswith("kallsyms_")}
        tables = tables or find_tables(kernel, kernel.page_tables, kernel.info.symbol("_stext"))
        edges = np.array([min(tables.values()) & ~7, max(tables.values()) & ~7], dtype=np.uint64)
        first, last = (self.place(edges) // PAGE_WORDS).tolist()
        found["kallsyms"] = np.arange(first, min(last + 2, image.pages))
        return found
