"""Checks of the host's kernel: Yama, pagemap, soft-dirty bits, KSM, huge pages, and the hashing module."""

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
    """State of KSM. `run`: value of the kernel's file, None without KSM. `pages_sharing`: pages saved by merging.
    `writable`: whether this process may write `run`. `paused_by_samepaged`: whether an ended samepaged paused KSM and
    did not restore it.
    """

    run: str | None
    pages_sharing: int
    writable: bool
    paused_by_samepaged: bool


@dataclass(frozen=True, slots=True)
class HashingKernel:
    """Name of the hashing module (`native` or `python`), and its number of threads."""

    name: str
    threads: int


def uses_soft_dirty(scan: ScanConfig) -> bool:
    """Return whether scans with this configuration use soft-dirty bits."""
    return scan.mode in {"auto", "precopy"} and any("precopy" in one.modes for one in candidates(scan.reader))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def ptrace_scope(text: str | None, held: Collection[str], reader: str) -> Check:
    """Check whether Yama allows reads of another process's memory. `text`: Yama's setting, None without Yama. `held`:
    the capabilities of this process.
    """
    name = "ptrace scope"
    if text is None:
        return ok(name, "the kernel does not have Yama: only capabilities restrict reads of QEMU's memory")
    if not needs_process(reader):
        return ok(name, f"{text}; not relevant, because scan.reader is {reader}")
    if not text.isdecimal() or int(text) >= NO_ATTACH:
        return failure(
            name,
            f"Yama's setting {text} forbids all reads of another process's memory until the next boot",
            "set kernel.yama.ptrace_scope = 2 (or less) in /etc/sysctl.d and reboot, or set scan.reader: dump",
        )
    if "CAP_SYS_PTRACE" in held:
        return ok(name, f"{text}: reads are allowed, because this process has CAP_SYS_PTRACE")
    if text == "0":
        return ok(name, "0: a user may read the memory of processes of the same user")
    return warning(
        name,
        f"{text}: reading QEMU's memory needs CAP_SYS_PTRACE, and this process does not have it",
        "run as root (sudo) or with the unit's user and capabilities, or set scan.reader: dump",
    )


def pagemap(entry: int | GuestError, reader: str) -> Check:
    """Check whether pagemap is correct. `entry`: the pagemap entry of a written page of this process, or the error."""
    name = "pagemap"
    if isinstance(entry, GuestError):
        if not needs_process(reader):
            return ok(name, f"cannot be read; not needed, because scan.reader is {reader}")
        return from_error(name, entry, "run as root")
    if not entry & int(PRESENT):
        return failure(
            name,
            "/proc/PID/pagemap reports a present page as absent: samepaged cannot determine the pages of a guest",
            "run samepaged on the host's own kernel, or set scan.reader: dump",
        )
    return ok(name, "reports the pages that the host backs; other pages are not read")


def soft_dirty(scan: ScanConfig, *, supported: bool) -> Check:
    """Check whether the kernel records written pages in soft-dirty bits, and the effect on scans if it does not."""
    name = "soft-dirty"
    if supported:
        return ok(name, "the kernel records written pages: precopy and incremental rescans are available")
    if not uses_soft_dirty(scan):
        return ok(
            name,
            f"not supported by this kernel; not needed for mode {scan.mode} and reader {scan.reader}",
        )
    return warning(
        name,
        "this kernel does not have soft-dirty bits (CONFIG_MEM_SOFT_DIRTY): precopy is unavailable, and a guest is "
        "read in slices at different times if its snapshot would take longer than scan.max_pause",
        "use a kernel with soft-dirty bits (on x86-64, those of Debian, Ubuntu, Fedora and SUSE have them), or set a "
        "longer scan.max_pause",
    )


def ksm_check(state: KsmState, scan: ScanConfig, *, soft_dirty: bool) -> Check:
    """Check the state of KSM and its effect on precopy."""
    name = "KSM"
    if state.run is None:
        return ok(name, "not available in this kernel or not visible: pages are not merged, and precopy is unaffected")
    if state.paused_by_samepaged and state.run == "0":
        return warning(
            name,
            "paused by a samepaged that ended before it restored KSM",
            "samepaged recover, as root",
        )
    merged = f"{size(state.pages_sharing * PAGE_SIZE)} merged"
    if state.run != "1":
        return ok(name, f"not running ({merged}): precopy is unaffected")
    if not (soft_dirty and uses_soft_dirty(scan)):
        return ok(name, f"running ({merged})")
    if not scan.still_ksm:
        return ok(
            name,
            f"running ({merged}): precopy reads pages again that KSM may have changed; scan.still_ksm: true would "
            "pause KSM during a precopy",
        )
    if not state.writable:
        return warning(
            name,
            f"running ({merged}), and scan.still_ksm cannot pause it: this process may not write {KSM}/run",
            "run as root or with CAP_DAC_OVERRIDE and with /sys writable, or set scan.still_ksm: false",
        )
    return ok(name, f"running ({merged}); paused for the seconds of a precopy (scan.still_ksm)")


def huge_pages(text: str | None, *, soft_dirty: bool) -> Check:
    """Check the effect of transparent huge pages on precopy. `text`: the kernel's setting, such as `always [madvise]
    never`.
    """
    name = "huge pages"
    chosen = "" if text is None else text.partition("[")[2].partition("]")[0]
    if chosen in {"", "never"}:
        return ok(name, "transparent huge pages are off: pages of 4 KiB back the guests")
    more = (
        ": the kernel records writes to them in units of 2 MiB, so precopy of a busy guest gains less"
        if soft_dirty
        else ""
    )
    return ok(name, f"transparent huge pages ({chosen}) may back guests{more}")


def hashing_kernel(kernel: HashingKernel) -> Check:
    """Check whether the native hashing module is installed."""
    name = "hashing"
    if kernel.name == "native":
        return ok(name, f"the native module, on {kernel.threads} thread{'s' * (kernel.threads != 1)}")
    return warning(
        name,
        "the Python module, because the native module was not built: suspensions take twice as long",
        "apt-get install gcc pkg-config libxxhash-dev, then reinstall samepaged (make install)",
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
    """Return all checks of the host's kernel. `held`: the capabilities of this process."""
    supported = softdirty.supported()
    return [
        ptrace_scope(_read(PTRACE_SCOPE), held, scan.reader),
        pagemap(_own_pagemap_entry(), scan.reader),
        soft_dirty(scan, supported=supported),
        ksm_check(_ksm_state(runtime_directory), scan, soft_dirty=supported),
        huge_pages(_read(HUGE_PAGES), soft_dirty=supported),
        hashing_kernel(HashingKernel(best_hasher().name, scan.thread_count)),
    ]
