"""A guest's Linux kernel: its virtual memory, symbols and types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.paging import walk
from samepaged.attribution.linux.profile import Profile
from samepaged.attribution.linux.virtual_memory import VirtualMemory
from samepaged.attribution.linux.vmcoreinfo import candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.attribution.guest_ram import GuestRam
    from samepaged.attribution.linux.vmcoreinfo import VmCoreInfo

__all__ = ["Kernel"]

# Notes of the running kernel: one, and the copy for a crash kernel.
MAX_CANDIDATES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel(VirtualMemory):
    """The running kernel. `page_tables` are the mappings of swapper_pg_dir; `profile` belongs to its build."""

    info: VmCoreInfo
    profile: Profile

    @classmethod
    def open(
        cls, ram: GuestRam, note_pages: Sequence[int], profile: Profile | None = None, btf: bytes | None = None
    ) -> Kernel:
        """Open the Linux kernel with its VMCOREINFO in one of these RAM pages. A profile of another build is ignored.
        Without a matching one, a profile is read (with the types in `btf` if the kernel does not contain BTF), and the
        pages read only for it do not stay marked in `ram.touched`. Raises Unreadable if no Linux kernel is readable.
        """
        problem = Unreadable("no VMCOREINFO of a running Linux for x86-64")
        for info in candidates(ram, note_pages)[:MAX_CANDIDATES]:
            try:
                return cls._of(ram, info, profile, btf)
            except Unreadable as error:
                problem = error
        raise problem

    @classmethod
    def _of(cls, ram: GuestRam, info: VmCoreInfo, profile: Profile | None, btf: bytes | None) -> Kernel:
        root = info.physical(info.symbol("swapper_pg_dir"))
        mapped = walk(ram, root, info.levels, upper=True, mask=info.mask)
        memory = VirtualMemory(ram, mapped)
        stext = info.symbol("_stext")
        if memory.translate(np.array([stext], dtype=np.uint64))[0] != info.physical(stext):
            raise Unreadable("the kernel's page tables do not map its text at the address in VMCOREINFO")
        if profile is None or profile.fingerprint != info.fingerprint:
            touched = ram.touched.copy()
            try:
                profile = Profile.read(memory, info, mapped, btf)
            finally:
                ram.touched[:] = touched
        return cls(ram, mapped, info=info, profile=profile.relocated(stext))
