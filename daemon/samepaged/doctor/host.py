"""The host's kernel: what of it samepaged can use, and what stands in its way."""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged import ksm
from samepaged.arch import PAGE_SIZE
from samepaged.doctor.check import Check, failure, from_error, ok, warning
from samepaged.errors import GuestError
from samepaged.formatting import size
from samepaged.memory import softdirty
from samepaged.memory.capture import candidates, needs_process
from samepaged.memory.hashing import best_hasher
from samepaged.memory.pagemap import PRESENT, Pagemap

if TYPE_CHECKING:
    from collections.abc import Collection

    from samepaged.config import ScanConfig

__all__ = [
    "HashingKernel",
    "KsmState",
    "hashing_kernel",
    "host",
    "huge_pages",
    "ksm_check",
    "pagemap",
    "ptrace_scope",
    "soft_dirty",
    "uses_soft_dirty",
]

PTRACE_SCOPE: Final = Path("/proc/sys/kernel/yama/ptrace_scope")
HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
KSM: Final = Path("/sys/kernel/mm/ksm")
# Documentation/admin-guide/LSM/Yama.rst.
NO_ATTACH: Final = 3


@dataclass(frozen=True, slots=True)
class KsmState:
    """`run` as the kernel says it (None: it has no KSM), pages that are merged away, and whether `run` may be written.
    `paused_by_samepaged` says that a samepaged that is no more held KSM still, and nobody has set it going again.
    """

    run: str | None
    pages_sharing: int
    writable: bool
    paused_by_samepaged: bool


@dataclass(frozen=True, slots=True)
class HashingKernel:
    """`native` or `python`, and on how many threads."""

    name: str
    threads: int


def uses_soft_dirty(scan: ScanConfig) -> bool:
    """Whether this configuration would have a guest read by its soft-dirty bits."""
    return scan.mode in {"auto", "precopy"} and any("precopy" in one.modes for one in candidates(scan.reader))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def ptrace_scope(text: str | None, held: Collection[str], reader: str) -> Check:
    """What Yama has against reading another process's memory, by its setting (None: no Yama) and what is held."""
    name = "ptrace scope"
    if text is None:
        return ok(name, "the kernel has no Yama: capabilities alone decide who may read QEMU's memory")
    if not needs_process(reader):
        return ok(name, f"{text}; not asked, as scan.reader is {reader}")
    if not text.isdecimal() or int(text) >= NO_ATTACH:
        return failure(
            name,
            f"Yama's setting {text} forbids everybody to read another process's memory, until the next boot",
            "set kernel.yama.ptrace_scope = 2 (or less) in /etc/sysctl.d and boot again, or set scan.reader: dump",
        )
    if "CAP_SYS_PTRACE" in held:
        return ok(name, f"{text}: CAP_SYS_PTRACE, which this process has, is let through")
    if text == "0":
        return ok(name, "0: a user may read the memory of processes of the same user")
    return warning(
        name,
        f"{text}: reading QEMU's memory takes CAP_SYS_PTRACE, which this process has not",
        "run as root (sudo), or as the unit does; or set scan.reader: dump",
    )


def pagemap(entry: int | GuestError, reader: str) -> Check:
    """Whether pagemap says what is true, by the entry of a page of our own that was written."""
    name = "pagemap"
    if isinstance(entry, GuestError):
        if not needs_process(reader):
            return ok(name, f"cannot be read; not needed, as scan.reader is {reader}")
        return from_error(name, entry, "run as root")
    if not entry & int(PRESENT):
        return failure(
            name,
            "/proc/PID/pagemap says that a page is absent that is present: which pages a guest has cannot be told",
            "run samepaged on the host's own kernel, or set scan.reader: dump",
        )
    return ok(name, "tells which pages the host backs: the others are not touched")


def soft_dirty(scan: ScanConfig, *, supported: bool) -> Check:
    """Whether the kernel notes which pages are written, and what follows where it does not."""
    name = "soft-dirty"
    if supported:
        return ok(name, "the kernel notes which pages are written: precopy and cheap rescans are possible")
    if not uses_soft_dirty(scan):
        return ok(name, f"no such bits in this kernel; not needed for mode {scan.mode} and reader {scan.reader}")
    return warning(
        name,
        "this kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY): there is no precopy, and a guest whose snapshot "
        "would take longer than scan.max_pause is read in slices of different times",
        "use a kernel that has them (on x86-64 those of Debian, Ubuntu, Fedora and SUSE), or set a longer "
        "scan.max_pause",
    )


def ksm_check(state: KsmState, scan: ScanConfig, *, soft_dirty: bool) -> Check:
    """What KSM does, and what that means for precopy."""
    name = "KSM"
    if state.run is None:
        return ok(name, "the kernel has none, or does not show it: nothing is merged, and precopy not disturbed")
    if state.paused_by_samepaged and state.run == "0":
        return warning(
            name,
            "a samepaged that is no more has held it still, and it still stands",
            "samepaged recover, as root",
        )
    merged = f"{size(state.pages_sharing * PAGE_SIZE)} are merged"
    if state.run != "1":
        return ok(name, f"does not run ({merged}): precopy is not disturbed")
    if not (soft_dirty and uses_soft_dirty(scan)):
        return ok(name, f"runs ({merged})")
    if not scan.still_ksm:
        return ok(
            name,
            f"runs ({merged}): precopy reads again what KSM may have touched; scan.still_ksm: true would hold it "
            "still meanwhile",
        )
    if not state.writable:
        return warning(
            name,
            f"runs ({merged}), and scan.still_ksm cannot hold it still: this process may not write {KSM}/run",
            "run as root or with CAP_DAC_OVERRIDE, where /sys can be written; or set scan.still_ksm: false",
        )
    return ok(name, f"runs ({merged}), and is held still for the seconds of a precopy (scan.still_ksm)")


def huge_pages(text: str | None, *, soft_dirty: bool) -> Check:
    """What transparent huge pages mean for precopy, by the setting's text, such as `always [madvise] never`."""
    name = "huge pages"
    chosen = "" if text is None else text.partition("[")[2].partition("]")[0]
    if chosen in {"", "never"}:
        return ok(name, "no transparent huge pages: guests are backed by pages of 4 KiB")
    more = ": writes to these are noted by 2 MiB, so precopy of a busy guest gains less" if soft_dirty else ""
    return ok(name, f"transparent huge pages ({chosen}) may back guests{more}")


def hashing_kernel(kernel: HashingKernel) -> Check:
    """Whether pages are hashed as fast as they can be."""
    name = "hashing"
    if kernel.name == "native":
        return ok(name, f"the native module, on {kernel.threads} thread{'s' * (kernel.threads != 1)}")
    return warning(
        name,
        "in Python: the native module was not built, so guests stand still twice as long",
        "apt-get install gcc pkg-config libxxhash-dev, then install samepaged again (make install)",
    )


def _own_pagemap_entry() -> int | GuestError:
    with mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        try:
            with Pagemap(os.getpid()) as own:
                return int(own.entries(address, PAGE_SIZE)[0])
        except GuestError as error:
            return error


def _ksm_state(runtime_directory: Path) -> KsmState:
    sharing = _read(KSM / "pages_sharing") or "0"
    return KsmState(
        run=_read(KSM / "run"),
        pages_sharing=int(sharing) if sharing.isdecimal() else 0,
        writable=os.access(KSM / "run", os.W_OK, effective_ids=True),
        paused_by_samepaged=ksm.was_left_paused(runtime_directory),
    )


def host(scan: ScanConfig, runtime_directory: Path, held: Collection[str]) -> list[Check]:
    """All checks of the host's kernel, for a process that holds these capabilities."""
    supported = softdirty.supported()
    return [
        ptrace_scope(_read(PTRACE_SCOPE), held, scan.reader),
        pagemap(_own_pagemap_entry(), scan.reader),
        soft_dirty(scan, supported=supported),
        ksm_check(_ksm_state(runtime_directory), scan, soft_dirty=supported),
        huge_pages(_read(HUGE_PAGES), soft_dirty=supported),
        hashing_kernel(HashingKernel(best_hasher().name, scan.thread_count)),
    ]
