"""Label values with a fixed set, each with its meaning in Markdown. A meaning is a predicate of "the domain"; that of a
state or kind is a predicate of "the page".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from samepaged.errors import Reason
from samepaged.memory import capture

__all__ = [
    "FAILURES",
    "FALLBACKS",
    "KINDS",
    "MODES",
    "OBSTACLES",
    "READERS",
    "RESULTS",
    "SHORT_OBSTACLES",
    "STATES",
    "Words",
]

Words = Mapping[str, str]
"""The values of a label with a fixed set, each with its meaning."""

STATES: Final[Words] = {
    "absent": "was never backed by the host: it reads as zeros and was not read",
    "swapped": "is swapped out on the host and was not read: its content is unknown",
    "zero": "contains only zeros, and does not count as sharing",
    "distinct": "is the first copy of a non-zero content in the guest: one of U(V)",
    "duplicate": "is another copy of a non-zero content in the guest: self-sharing, one of S_self(V)",
}

KINDS: Final[Words] = {
    "unknown": "could not be attributed",
    "free": "is free, in the guest's page allocator",
    "absent": "was never backed by the host, like the pages around it: it is unused",
    "stack": "belongs to a process's main stack",
    "heap": "belongs to a process's heap (`brk`)",
    "anonymous": "belongs to other anonymous memory of a process",
    "private_file": "is a private copy of a file's page, such as a library's data",
    "library": "belongs to a mapped shared library",
    "executable": "belongs to another file that is mapped executable",
    "mapped_file": "belongs to another mapped file",
    "page_cache": "belongs to a file or a block device, and is not mapped",
    "shmem": "belongs to shared memory or a tmpfs",
    "special": "belongs to the vdso or its data",
    "slab": "belongs to the kernel's slab allocator",
    "page_table": "is a page table",
    "kernel_text": "is kernel code",
    "kernel_data": "is static data of the kernel",
    "kernel_stack": "belongs to a kernel stack",
    "module": "belongs to a kernel module",
    "vmalloc": "belongs to other vmalloc memory of the kernel",
    "per_cpu": "is per-CPU data of the kernel",
    "page_array": "belongs to the array of struct page",
    "kernel_buffer": "is kernel memory from the page allocator, used by a known part of the kernel",
    "reserved": "was reserved at boot, or belongs to the firmware",
    "kernel_other": "is other kernel memory, of unknown use",
}

RESULTS: Final[Words] = {
    "scanned": "was scanned",
    "skipped": "was skipped, for any reason",
}

MODES: Final[Words] = {
    "snapshot": "was suspended while all of its memory was read: exact, of one instant, unless a passed-through device "
    "wrote to it (`samepage_domain_device_writes`)",
    "precopy": "was suspended only to read again the pages that it had written during the scan: exact, of one instant",
    "sliced": "was suspended for many short slices: each is exact, at a different time",
    "live": "was not suspended: without a consistency guarantee",
}

READERS: Final[Words] = {name: reader.label for name, reader in capture.READERS.items()}

FAILURES: Final[Words] = {
    Reason.GONE: "ended during the scan",
    Reason.NOT_RUNNING: "is not running",
    Reason.NO_SUCH_DOMAIN: "was requested by name, and does not exist",
    Reason.IN_JOB: "has an active libvirt job: migration, save or dump",
    Reason.MONITOR_BUSY: "has a QEMU process that does not respond to libvirt, and was not suspended",
    Reason.NO_ANSWER: "had a suspend, resume or other libvirt call that did not return in time",
    Reason.OPEN_ENTRY: "has an open journal entry of an earlier scan, and was not scanned",
    Reason.CRASHED: "has crashed",
    Reason.PM_SUSPENDED: "is suspended by its own power management",
    Reason.ENCRYPTED: "has encrypted memory: equal pages differ on the host",
    Reason.MACVTAP: "has a macvtap interface: a suspend would interrupt its link (`scan.macvtap`)",
    Reason.NO_PID: "has no visible QEMU process",
    Reason.NO_PERMISSION: "could not be suspended or read for lack of permission",
    Reason.NO_RESOURCES: "was not scanned because the host, or samepaged's limits, left no file descriptor, memory or "
    "thread for it",
    Reason.LAYOUT: "has RAM that was not found completely in its process",
    Reason.DUMP: "could not be dumped, or its dump could not be parsed",
    Reason.READ: "has memory that could not be read",
    Reason.SUSPEND: "could not be suspended or resumed",
    Reason.OVERDUE: "was suspended for more than `scan.max_pause` plus a second: it was resumed, and the scan is void",
    Reason.TOO_LONG: "was not suspended: reading it at one instant, as `samepaged sources` requires, would take longer "
    "than `scan.max_pause`",
    Reason.LEFT_ALONE: "is skipped for an hour: pauses failed or were too long in three consecutive scans",
    Reason.NO_GUARD: "was not suspended: the guard process, which would resume it, could not be started",
    Reason.NO_JOURNAL: "was not suspended: its journal entry could not be written to the runtime directory",
    Reason.VERIFICATION: "had changed pages that were assumed to be unchanged: the scan is void",
    Reason.RESUMED_BY_OTHERS: "was resumed by another client while it was read",
    Reason.LIBVIRT: "failed with another libvirt error",
    Reason.INTERRUPTED: "was being scanned when samepaged was stopped",
    Reason.INTERNAL: "failed because of a bug in samepaged; see the log",
}

FALLBACKS: Final[Words] = {
    "layout": "has RAM that was not found completely in its process: it was dumped",
    "hugetlb": "has its memory in hugetlbfs huge pages, which have no soft-dirty bits: precopy is not possible",
    "shared": "has shared or file-backed memory: writes by others set no soft-dirty bit, so precopy is not possible",
    "vfio": "has a host device (VFIO): its writes set no soft-dirty bit, so precopy is not possible",
    "kernel": "runs on a host kernel without soft-dirty bits (`CONFIG_MEM_SOFT_DIRTY`): precopy is not possible",
    "busy": "writes faster than it can be read within `scan.max_pause`: precopy did not converge",
    "permission": "has soft-dirty bits that this user may not clear (CAP_DAC_OVERRIDE): precopy is not possible",
    "claimed": "is being scanned by another samepaged process with the same soft-dirty bits: precopy is not possible",
    "drift": "has too little of its drift budget (`scan.max_drift`) left for precopy: it was read in slices",
    "distrusted": "had writes that its soft-dirty bits missed: precopy is disabled since then",
}

OBSTACLES: Final[Words] = {
    "hugetlb": "has its memory in hugetlbfs huge pages (`<hugepages/>`), which KSM does not merge",
    "shared": "shares its memory with other processes (memfd, file, vhost-user), which KSM does not merge",
    "nosharepages": "has `<nosharepages/>` in its XML",
    "pinned": "has a host device (VFIO, vDPA), which pins its memory; KSM does not merge pinned pages",
    "not_offered": "has memory that QEMU did not offer to KSM: `mem-merge=off`, or a kernel without KSM at its start",
}

SHORT_OBSTACLES: Final[Words] = {
    "hugetlb": "huge pages of hugetlbfs",
    "shared": "memory shared with other processes",
    "nosharepages": "<nosharepages/>",
    "pinned": "pinned by a device (VFIO, vDPA)",
    "not_offered": "not offered to KSM by QEMU",
}
"""Short forms of `OBSTACLES`, without Markdown."""
