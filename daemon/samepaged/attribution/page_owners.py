"""Page attribution of a guest: the kind of each page, its file or slab cache, and the processes that use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FILE_KINDS", "KIND", "KINDS", "UNLABELLED", "UNUSED", "PageOwners", "permissions"]

# Kinds of pages. The numbers are those of `PageOwners.kinds`; the words are in JSON, in metrics and on the page.
KINDS: Final = (
    "unknown",  # not attributed
    "free",  # in the guest's page allocator, or in one of its per-CPU lists
    "absent",  # never backed by the host, like its whole block; its struct page was not read
    "stack",  # a process's main stack
    "heap",  # between start_brk and brk
    "anonymous",  # a process's other memory without a file
    "private_file",  # a private copy of a file's page (copy on write), such as a library's data
    "library",  # a page of a shared library that is mapped
    "executable",  # a page of another file, with an executable mapping
    "mapped_file",  # a page of another file that is mapped
    "page_cache",  # a page of a file or a block device that is not mapped
    "shmem",  # shared memory and tmpfs
    "special",  # the vdso and its data
    "slab",
    "page_table",
    "kernel_text",
    "kernel_data",
    "kernel_stack",
    "module",
    "vmalloc",
    "per_cpu",
    "page_array",  # the struct pages themselves
    "kernel_buffer",  # from the kernel's page allocator, with a known purpose
    "reserved",  # firmware, or reserved at boot
    "kernel_other",  # from the kernel's page allocator, with an unknown purpose
)
KIND: Final = {name: number for number, name in enumerate(KINDS)}
# Pages of these kinds have a path and an offset, if the guest's kernel has them.
FILE_KINDS: Final = frozenset({"private_file", "library", "executable", "mapped_file", "page_cache", "shmem"})
# Kinds of pages that are not in use.
UNUSED: Final = frozenset({"free", "absent"})
# Kinds of pages without a known owner.
UNLABELLED: Final = frozenset({"unknown", "kernel_other"})


def permissions(mask: int) -> str:
    """Return the permissions of one mapping as in /proc/PID/maps. Bits of `mask`: 1 r, 2 w, 4 x, 8 shared."""
    rwx = "".join(letter if mask >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
    return rwx + ("s" if mask & 8 else "p")


@dataclass(frozen=True, slots=True)
class PageOwners:
    """The owners of a guest's N pages, in the order of its RAM blocks, as in PageDigest.

    `kinds`: uint8 (N,), numbers in KINDS. `labels`: int32 (N,), the page's entry in `names` (a path, or another label
    such as "slab dentry"), -1 without one. `offsets`: int64 (N,), bytes into the file, -1 without one. `modes`: uint16
    (N,), a set: bit m is set if a process maps the page with the permissions m (see `permissions`). `used_pages`
    (int32, ascending) and `used_by` (int32, its entry in `processes`), both (M,): pairs of a page and a process that
    uses it, each once. Processes of the same name (`comm`) are one entry.

    `kernel` is the kernel release, None if no Linux kernel was found. `missing` is the number of pages that the
    analysis needed and that were not copied. `note` is the reason for an incomplete attribution, one line, or None.
    """

    kinds: NDArray[np.uint8]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    modes: NDArray[np.uint16]
    names: tuple[str, ...]
    used_pages: NDArray[np.int32]
    used_by: NDArray[np.int32]
    processes: tuple[str, ...]
    kernel: str | None
    missing: int = 0
    note: str | None = None

    @classmethod
    def unknown(cls, pages: int, note: str, kernel: str | None = None) -> PageOwners:
        """Return owners with all pages unknown, and `note` as the reason."""
        return cls(
            kinds=np.zeros(pages, dtype=np.uint8),
            labels=np.full(pages, -1, dtype=np.int32),
            offsets=np.full(pages, -1, dtype=np.int64),
            modes=np.zeros(pages, dtype=np.uint16),
            names=(),
            used_pages=np.empty(0, dtype=np.int32),
            used_by=np.empty(0, dtype=np.int32),
            processes=(),
            kernel=kernel,
            note=note,
        )

    @property
    def in_use_pages(self) -> int:
        """The number of pages that are neither free nor absent."""
        return int(np.count_nonzero(~np.isin(self.kinds, [KIND[kind] for kind in UNUSED])))

    @property
    def labelled_ratio(self) -> float:
        """The labelled part of the pages in use: 0 to 1 (0 if there are none in use)."""
        counts = np.bincount(self.kinds, minlength=len(KINDS))
        used = self.in_use_pages
        nothing = sum(int(counts[KIND[kind]]) for kind in UNLABELLED)
        return 1 - nothing / used if used else 0.0
