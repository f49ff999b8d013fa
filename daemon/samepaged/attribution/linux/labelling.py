"""Labelling of all pages of a guest, in independent steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from samepaged.arch import PAGE_SHIFT
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux import kernel_areas, kernel_buffers
from samepaged.attribution.linux.block_requests import label_block_requests
from samepaged.attribution.linux.boot_allocations import label_dma_pools, label_ftrace_records
from samepaged.attribution.linux.buddy import free_blocks, per_cpu_free_pages
from samepaged.attribution.linux.files import read_file_mappings, read_open_files
from samepaged.attribution.linux.page_labels import PageLabels
from samepaged.attribution.linux.processes import read_memory_maps
from samepaged.attribution.linux.slabs import label_slabs
from samepaged.attribution.linux.struct_page import TOP_BYTE, StructPages
from samepaged.attribution.linux.struct_reader import KERNEL_HALF
from samepaged.attribution.linux.user_pages import classify_file_areas, label_users
from samepaged.attribution.linux.vmas import read_areas
from samepaged.attribution.page_owners import KIND, PageOwners

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["label_pages"]

Result = TypeVar("Result")

# Errors that invalid guest memory can cause in arithmetic and look-ups.
PARSE_ERRORS: Final = (Unreadable, ArithmeticError, LookupError, ValueError, MemoryError)
# The low bits of a page's mapping: anonymous, or another kind without a file (include/linux/page-flags.h).
ANONYMOUS, NO_FILE = np.uint64(1), np.uint64(3)
MAX_FILES: Final = 1 << 17
# Kind and label of pages by their page type, in kernels from 6.12 on.
PAGE_TYPE_KINDS: Final = {
    "PGTY_offline": ("reserved", "balloon"),
    "PGTY_unaccepted": ("free", "free"),
    "PGTY_large_kmalloc": ("slab", "slab kmalloc-large"),
}


class _Labelling:
    """The steps. A step that fails leaves only its own pages unlabelled, and adds the reason to `problems`."""

    def __init__(self, kernel: Kernel, frames: StructPages) -> None:
        self.kernel = kernel
        self.frames = frames
        self.ledger = PageLabels(kernel.ram.pages)
        self.problems: list[str] = []

    def attempt(self, subject: str, step: Callable[[], Result]) -> Result | None:
        try:
            return step()
        except PARSE_ERRORS as error:
            self.problems.append(f"{subject}: {' '.join(str(error).split()) or type(error).__name__}")
            return None

    def run(self) -> None:
        kernel, frames, ledger = self.kernel, self.frames, self.ledger
        attempt = self.attempt
        ledger.set_kind(np.flatnonzero(frames.reserved | ~frames.readable), "reserved", "reserved")
        typed = kernel.profile.has_types
        if not typed:
            self.problems.append("kernel without type information (BTF): pages without names, no processes")
        free = free_blocks(frames)
        at_hand = attempt("per-CPU free pages", lambda: per_cpu_free_pages(kernel, frames, free)) if typed else None
        attempt("slabs", lambda: label_slabs(kernel, frames, ledger))
        ledger.set_kind(np.flatnonzero(frames.table), "page_table", "page tables")
        attempt("kernel image", lambda: kernel_areas.label_image(kernel, frames, ledger))
        attempt("per-CPU memory", lambda: kernel_areas.label_per_cpu(kernel, frames, ledger))
        kernel_areas.label_mem_map(frames, ledger)
        zeros = attempt("zero page", lambda: kernel_areas.label_zero_pages(kernel, frames, ledger))
        for pages in (free, at_hand):
            if pages is not None:
                ledger.set_kind_of_unknown(pages, "free", "free")
        attempt("page cache", self.files)
        attempt("vmalloc", lambda: kernel_areas.label_vmalloc(kernel, frames, ledger))
        kernel_areas.label_page_tables(kernel, ledger)
        if typed:
            attempt("ftrace records", lambda: label_ftrace_records(kernel, ledger))
            attempt("DMA pools", lambda: label_dma_pools(kernel, ledger))
            attempt("block requests", lambda: label_block_requests(kernel, frames, ledger))
            attempt("hash tables", lambda: kernel_buffers.label_tables(kernel, frames, ledger))
            attempt("BTF", lambda: kernel_buffers.label_btf(kernel, frames, ledger))
            attempt("processes", lambda: self.users(zeros if zeros is not None else np.empty(0, dtype=np.int64)))
        self.rest(per_cpu_known=at_hand is not None)

    def files(self) -> None:
        """Label pages of files, mapped or not."""
        frames, ledger = self.frames, self.ledger
        mapping = frames.mapping[frames.head]
        is_file = (mapping >= KERNEL_HALF) & (mapping & NO_FILE == 0) & ~frames.idle & (ledger.kinds == 0)
        pages = np.flatnonzero(is_file & frames.readable)
        if not self.kernel.profile.has_types:
            ledger.set_kind(pages, "page_cache", None)
            return
        mapping = mapping[pages]
        # Neighbouring pages mostly belong to the same file.
        turns = np.flatnonzero(np.concatenate(([True], mapping[1:] != mapping[:-1]))) if len(pages) else pages
        distinct, inverse = np.unique(mapping[turns], return_inverse=True)
        which = np.repeat(inverse, np.diff(np.append(turns, len(pages))))
        known = read_file_mappings(self.kernel, distinct[:MAX_FILES])
        kinds = np.where(known.in_memory, KIND["shmem"], KIND["page_cache"]).astype(np.uint8)
        labels = ledger.labels_of(known.paths)
        kept = (which < MAX_FILES) & known.valid[np.minimum(which, MAX_FILES - 1)]
        pages, which = pages[kept], which[kept]
        heads = frames.head[pages]
        offsets = (frames.index[heads] << np.uint64(PAGE_SHIFT)).view(np.int64) + ((pages - heads) << PAGE_SHIFT)
        ledger.kinds[pages] = kinds[which]
        ledger.labels[pages] = labels[which]
        ledger.offsets[pages] = np.maximum(offsets, -1)

    def users(self, zeros: NDArray[np.int64]) -> None:
        """Label pages that processes map."""
        maps = read_memory_maps(self.kernel)
        known = read_areas(self.kernel, maps)
        files = np.unique(known.files[known.files != 0])
        sorted_ = classify_file_areas(known, files, read_open_files(self.kernel, files), self.ledger)
        if not label_users(self.kernel, self.frames, maps, (known, sorted_), zeros, self.ledger):
            raise Unreadable("more mappings than the limit")

    def rest(self, *, per_cpu_known: bool) -> None:
        """Label the remaining pages by struct page alone. `per_cpu_known`: whether per-CPU free pages are known."""
        frames, ledger = self.frames, self.ledger
        mapping = frames.mapping[frames.head]
        ledger.set_kind_of_unknown(np.flatnonzero((mapping & ANONYMOUS != 0) & ~frames.idle), "anonymous", "anon")
        for name, (kind, label) in PAGE_TYPE_KINDS.items():
            if name in self.kernel.profile.enumerators:
                number = self.kernel.profile.enumerators[name]
                ledger.set_kind_of_unknown(np.flatnonzero(frames.types >> np.uint32(TOP_BYTE) == number), kind, label)
        # An unreferenced page may be in a per-CPU list, or part of a block with a referenced first page.
        sure = frames.readable if per_cpu_known else frames.readable & ~frames.idle
        ledger.set_kind_of_unknown(np.flatnonzero(sure), "kernel_other", "kernel")


def label_pages(kernel: Kernel) -> PageOwners:
    """Return the owners of all pages of this kernel's guest. Raises Unreadable without an array of struct pages."""
    work = _Labelling(kernel, StructPages.read(kernel))
    work.run()
    note = "; ".join(work.problems) or None
    return work.ledger.finish(kernel.info.release, int(np.count_nonzero(kernel.ram.missing)), note)
