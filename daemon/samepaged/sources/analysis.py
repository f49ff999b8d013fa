"""What the process that reads a guest's memory makes of it: the kernel that runs there, and its pages' owners."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol, TypeVar

from samepaged.sources.attribute import attribute
from samepaged.sources.frames import array_pages, selected
from samepaged.sources.kernel import Kernel
from samepaged.sources.profile import Profile
from samepaged.sources.ram import Unreadable
from samepaged.sources.vmcoreinfo import candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from samepaged.sources.ownership import Ownership
    from samepaged.sources.ram import Ram

__all__ = ["Analysis", "Linux"]

Opened = TypeVar("Opened")


class Analysis(Protocol[Opened]):
    """Each raises Unreadable where the guest's memory says something impossible."""

    def open(self, ram: Ram, notes: Sequence[int], profile: bytes, types: Callable[[str], bytes | None]) -> Opened:
        """The kernel that a note in one of these pages is of; `profile` is what is known of it, if anything is, and
        `types` has the types of a build, if anybody has.
        """

    def profile(self, opened: Opened) -> bytes:
        """What is known of it now, for `open`."""

    def array_pages(self, opened: Opened) -> NDArray[np.int64]:
        """The pages that have its struct pages."""

    def selected(self, opened: Opened) -> NDArray[np.int64]:
        """The pages that the struct pages say are slabs and page tables."""

    def attribute(self, opened: Opened) -> Ownership:
        """Whose the pages are."""


class Linux:
    """An Analysis of Linux."""

    def open(self, ram: Ram, notes: Sequence[int], profile: bytes, types: Callable[[str], bytes | None]) -> Kernel:
        """As in Analysis."""
        known = None
        if profile:
            try:
                known = Profile.from_document(json.loads(profile))
            except (Unreadable, ValueError, RecursionError):
                known = None
        build = None if known else next((info.build_id for info in candidates(ram, notes) if info.build_id), None)
        return Kernel.open(ram, notes, known, types(build) if build else None)

    def profile(self, opened: Kernel) -> bytes:
        """As in Analysis."""
        return json.dumps(opened.profile.to_document(), separators=(",", ":")).encode()

    def array_pages(self, opened: Kernel) -> NDArray[np.int64]:
        """As in Analysis."""
        return array_pages(opened)

    def selected(self, opened: Kernel) -> NDArray[np.int64]:
        """As in Analysis."""
        return selected(opened)

    def attribute(self, opened: Kernel) -> Ownership:
        """As in Analysis."""
        return attribute(opened)
