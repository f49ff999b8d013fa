"""Analysis of a guest's memory in the worker: the running kernel, and the owners of its pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from samepaged.arch import PAGE_SHIFT
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.kernel import Kernel
from samepaged.attribution.linux.labelling import label_pages
from samepaged.attribution.linux.mem_map import find_mem_map
from samepaged.attribution.linux.profile import Profile
from samepaged.attribution.linux.struct_page import slab_and_table_pages
from samepaged.attribution.linux.vmcoreinfo import candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.guest_ram import GuestRam
    from samepaged.attribution.page_owners import PageOwners

__all__ = ["KernelAnalysis", "LinuxAnalysis"]

KernelT = TypeVar("KernelT")


class KernelAnalysis(Protocol[KernelT]):
    """Analysis of one kind of kernel. Methods raise Unreadable if the guest's memory is invalid."""

    def open(
        self, ram: GuestRam, notes: Sequence[int], profile: bytes, find_btf: Callable[[str], bytes | None]
    ) -> KernelT:
        """Open the kernel with a VMCOREINFO note in one of these pages. `profile` is the result of an earlier
        `profile` call, or empty; `find_btf` returns the BTF of a build ID, or None.
        """

    def profile(self, kernel: KernelT) -> bytes:
        """Return the profile of the kernel, for `open`."""

    def struct_page_pages(
        self, kernel: KernelT, backed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pages that hold the struct pages of `backed` (bool, all RAM pages), and the rest of the array."""

    def slab_and_table_pages(self, kernel: KernelT) -> NDArray[np.int64]:
        """Return the pages of slabs and page tables, according to the struct pages."""

    def attribute(self, kernel: KernelT) -> PageOwners:
        """Return the page owners."""


class LinuxAnalysis:
    """KernelAnalysis of Linux."""

    def open(
        self, ram: GuestRam, notes: Sequence[int], profile: bytes, find_btf: Callable[[str], bytes | None]
    ) -> Kernel:
        """As in KernelAnalysis."""
        known = None
        if profile:
            try:
                known = Profile.from_document(json.loads(profile))
            except (Unreadable, ValueError, RecursionError):
                known = None
        build = None if known else next((info.build_id for info in candidates(ram, notes) if info.build_id), None)
        return Kernel.open(ram, notes, known, find_btf(build) if build else None)

    def profile(self, kernel: Kernel) -> bytes:
        """As in KernelAnalysis."""
        return json.dumps(kernel.profile.to_document(), separators=(",", ":")).encode()

    def struct_page_pages(
        self, kernel: Kernel, backed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As in KernelAnalysis."""
        array = find_mem_map(kernel)
        needed = [np.empty(0, dtype=np.int64)]
        for first, count, pages in array.parts:
            starts = np.flatnonzero(backed[first : first + count]) * array.size
            places = np.union1d(starts >> PAGE_SHIFT, (starts + array.size - 1) >> PAGE_SHIFT)
            needed.append(pages[places])
        held = np.unique(np.concatenate(needed))
        held = held[held >= 0]
        return held, np.setdiff1d(array.pages, held, assume_unique=True)

    def slab_and_table_pages(self, kernel: Kernel) -> NDArray[np.int64]:
        """As in KernelAnalysis."""
        return slab_and_table_pages(kernel)

    def attribute(self, kernel: Kernel) -> PageOwners:
        """As in KernelAnalysis."""
        return label_pages(kernel)
