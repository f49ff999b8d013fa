"""What the process that reads a guest's memory makes of it: the kernel that runs there, and its pages' owners."""

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
    """Each raises Unreadable where the guest's memory says something impossible."""

    def open(
        self, ram: GuestRam, notes: Sequence[int], profile: bytes, find_btf: Callable[[str], bytes | None]
    ) -> KernelT:
        """The kernel that a note in one of these pages is of; `profile` is what is known of it, if anything is, and
        `find_btf` has the types of a build, if anybody has.
        """

    def profile(self, kernel: KernelT) -> bytes:
        """What is known of it now, for `open`."""

    def struct_page_pages(
        self, kernel: KernelT, backed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pages that have the struct pages of these pages (bool, all RAM pages), and the others that have some."""

    def slab_and_table_pages(self, kernel: KernelT) -> NDArray[np.int64]:
        """The pages that the struct pages say are slabs and page tables."""

    def attribute(self, kernel: KernelT) -> PageOwners:
        """Whose the pages are."""


class LinuxAnalysis:
    """An Analysis of Linux."""

    def open(
        self, ram: GuestRam, notes: Sequence[int], profile: bytes, find_btf: Callable[[str], bytes | None]
    ) -> Kernel:
        """As in Analysis."""
        known = None
        if profile:
            try:
                known = Profile.from_document(json.loads(profile))
            except (Unreadable, ValueError, RecursionError):
                known = None
        build = None if known else next((info.build_id for info in candidates(ram, notes) if info.build_id), None)
        return Kernel.open(ram, notes, known, find_btf(build) if build else None)

    def profile(self, kernel: Kernel) -> bytes:
        """As in Analysis."""
        return json.dumps(kernel.profile.to_document(), separators=(",", ":")).encode()

    def struct_page_pages(
        self, kernel: Kernel, backed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As in Analysis."""
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
        """As in Analysis."""
        return slab_and_table_pages(kernel)

    def attribute(self, kernel: Kernel) -> PageOwners:
        """As in Analysis."""
        return label_pages(kernel)
