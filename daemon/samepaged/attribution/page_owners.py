"""What is known of a guest's pages: what each is, which file or cache it belongs to, and which processes use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FILE_KINDS", "KIND", "KINDS", "UNLABELLED", "UNUSED", "PageOwners", "permissions"]

# What a page can be. The numbers are those of `PageOwners.kinds`; the words are in JSON, in metrics and on the page.
KINDS: Final = (
    "unknown",  # nothing could be said of it
    "free",  # in the guest's page allocator, or in one of its per-CPU lists
    "absent",  # never backed by the host, like all around it: what the guest calls it was not asked
    "stack",  # a process's main stack
    "heap",  # between start_brk and brk
    "anonymous",  # a process's other memory without a file
    "private_file",  # a private copy of a file's page (copy on write), such as a library's data
    "library",  # a page of a shared library that is mapped
    "executable",  # a page of another file, mapped by somebody with the right to execute
    "mapped_file",  # a page of another file that is mapped
    "page_cache",  # a page of a file or a block device that nobody maps
    "shmem",  # shared memory and tmpfs
    "special",  # vdso and its data
    "slab",
    "page_table",
    "kernel_text",
    "kernel_data",
    "kernel_stack",
    "module",
    "vmalloc",
    "per_cpu",
    "page_array",  # the struct pages themselves
    "kernel_buffer",  # taken from the page allocator by a part of the kernel that is known
    "reserved",  # firmware's, or taken at boot
    "kernel_other",  # the kernel's own, from its page allocator, by whom is not known
)
KIND: Final = {name: number for number, name in enumerate(KINDS)}
# Pages of these kinds have a path and an offset, where the guest's kernel tells them.
FILE_KINDS: Final = frozenset({"private_file", "library", "executable", "mapped_file", "page_cache", "shmem"})
# These are not in use.
UNUSED: Final = frozenset({"free", "absent"})
# Of these nothing is known that helps.
UNLABELLED: Final = frozenset({"unknown", "kernel_other"})


def permissions(mask: int) -> str:
    """The permissions of one mapping, in /proc/PID/maps' way: `mask` has 1 for r, 2 for w, 4 for x, 8 for shared."""
    rwx = "".join(letter if mask >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
    return rwx + ("s" if mask & 8 else "p")


@dataclass(frozen=True, slots=True)
class PageOwners:
    """The owners of a guest's N pages, in the order of its RAM blocks, as in PageDigest.

    `kinds`: uint8 (N,), numbers in KINDS. `labels`: int32 (N,), the page's entry in `names` (a path; or what stands in
    brackets otherwise, such as "slab dentry"), -1 where there is none. `offsets`: int64 (N,), bytes into the file, -1
    where there is none. `modes`: uint16 (N,), a set: bit m is set if somebody maps the page with the permissions m (see
    `permissions`). `used_pages` (int32, ascending) and `used_by` (int32, its entry in `processes`), both (M,): which
    processes use a page, each pair once. A process is known by its name (`comm`), and so are all of that name.

    `kernel` is the guest's release, None where no Linux was found. `missing` is how many pages would have been needed
    that were not copied; `note` is why less is known than could be, one line, or None.
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
        """Nothing is known of any page, and why."""
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
        """How many pages are neither free nor absent."""
        return int(np.count_nonzero(~np.isin(self.kinds, [KIND[kind] for kind in UNUSED])))

    @property
    def labelled_ratio(self) -> float:
        """Of the pages in use, how many are labelled: 0 to 1 (0 where none is in use)."""
        counts = np.bincount(self.kinds, minlength=len(KINDS))
        used = self.in_use_pages
        nothing = sum(int(counts[KIND[kind]]) for kind in UNLABELLED)
        return 1 - nothing / used if used else 0.0
