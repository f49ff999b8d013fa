"""The values of labels that have few and fixed ones, and what they mean, in Markdown. Each meaning goes on from
"the domain" or, of a state, from "the page".
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
"""The values of a label with few and fixed ones, each with its meaning."""

STATES: Final[Words] = {
    "absent": "was never backed by the host: it reads as zeros, and was not read",
    "swapped": "is out on the host, and was not read: its content is not known",
    "zero": "is all zeros; it is in no sharing",
    "distinct": "is the first copy of some non-zero content in the guest: one of U(V)",
    "duplicate": "is a further copy of such a content in the guest: self-sharing, one of S_self(V)",
}

KINDS: Final[Words] = {
    "unknown": "could not be told anything of",
    "free": "is free: in the guest's page allocator",
    "absent": "was never backed by the host, and neither was anything around it: nobody has used it",
    "stack": "is of a process's main stack",
    "heap": "is of a process's heap (`brk`)",
    "anonymous": "is of a process's other memory without a file",
    "private_file": "is a private copy of a file's page, such as a library's data",
    "library": "is of a shared library that is mapped",
    "executable": "is of another file that somebody maps with the right to execute",
    "mapped_file": "is of another file that is mapped",
    "page_cache": "is of a file or a block device, and nobody maps it",
    "shmem": "is of shared memory or of a tmpfs",
    "special": "is of the vdso or its data",
    "slab": "is of the kernel's slab allocator",
    "page_table": "is a page table",
    "kernel_text": "is the kernel's code",
    "kernel_data": "is the kernel's static data",
    "kernel_stack": "is of a stack in the kernel",
    "module": "is of a kernel module",
    "vmalloc": "is of the kernel's other memory from vmalloc",
    "per_cpu": "is of the kernel's data of each processor",
    "page_array": "is of the array of struct page",
    "kernel_buffer": "is of the kernel's own, taken from its page allocator by a part of it that is known",
    "reserved": "was taken at boot, or is the firmware's",
    "kernel_other": "is the kernel's own, for what is not known",
}

RESULTS: Final[Words] = {
    "scanned": "was scanned",
    "skipped": "was skipped, for whatever reason",
}

MODES: Final[Words] = {
    "snapshot": "was suspended for the whole reading: exact, of one instant, unless a passed-through device wrote "
    "meanwhile (`samepage_domain_device_writes`)",
    "precopy": "was suspended only for what it had written while it was being read: exact, of one instant",
    "sliced": "was suspended for many short slices: each is exact, of different times",
    "live": "was not suspended: without a guarantee",
}

READERS: Final[Words] = {name: reader.label for name, reader in capture.READERS.items()}

FAILURES: Final[Words] = {
    Reason.GONE: "went away during the scan",
    Reason.NOT_RUNNING: "does not run",
    Reason.NO_SUCH_DOMAIN: "was asked for by name, and does not exist",
    Reason.IN_JOB: "is in a job of libvirt: migrated, saved, dumped",
    Reason.MONITOR_BUSY: "has a QEMU that does not answer libvirt, and was not suspended",
    Reason.NO_ANSWER: "had a suspend, resume or other call into libvirt that did not return in time",
    Reason.OPEN_ENTRY: "has an open journal entry of an earlier scan, and was not scanned",
    Reason.CRASHED: "has crashed",
    Reason.PM_SUSPENDED: "sleeps (the guest's own power management)",
    Reason.ENCRYPTED: "has encrypted memory: equal pages do not look equal",
    Reason.MACVTAP: "has a macvtap interface, whose link a suspend would interrupt (`scan.macvtap`)",
    Reason.NO_PID: "has no process whose memory could be read",
    Reason.NO_PERMISSION: "may not be suspended, or its memory may not be read",
    Reason.NO_RESOURCES: "was not scanned because the host, or samepaged's limits, left no file descriptor, memory or "
    "thread for it",
    Reason.LAYOUT: "has RAM that could not be found whole in its process",
    Reason.DUMP: "could not be dumped, or the dump could not be understood",
    Reason.READ: "has memory that could not be read",
    Reason.SUSPEND: "could not be suspended or resumed",
    Reason.OVERDUE: "was suspended for too long: over `scan.max_pause` and a second; it was resumed, the scan is void",
    Reason.TOO_LONG: "would have to be suspended for longer than `scan.max_pause` to be read at one instant, which "
    "`samepaged sources` asks for; it was not",
    Reason.LEFT_ALONE: "is left alone for an hour: pauses failed or were too long in three scans running",
    Reason.NO_GUARD: "was not suspended, as no guard process that would resume it could be started",
    Reason.NO_JOURNAL: "was not suspended, as this could not be noted in the runtime directory",
    Reason.VERIFICATION: "had pages that were held to be unchanged and were not: the scan is void",
    Reason.RESUMED_BY_OTHERS: "was resumed by somebody else while it was read",
    Reason.LIBVIRT: "met another error of libvirt",
    Reason.INTERRUPTED: "was being scanned when samepaged was stopped",
    Reason.INTERNAL: "met a bug in samepaged; the log says more",
}

FALLBACKS: Final[Words] = {
    "layout": "has RAM that could not be found whole in its process: it was dumped",
    "hugetlb": "has its memory in huge pages of hugetlbfs, which have no soft-dirty bits: no precopy",
    "shared": "has memory that is shared or in a file, where writes from elsewhere set no soft-dirty bit: no precopy",
    "vfio": "has a device of the host (VFIO), whose writes set no soft-dirty bit: no precopy",
    "kernel": "is on a host whose kernel keeps no soft-dirty bits (`CONFIG_MEM_SOFT_DIRTY`): no precopy",
    "busy": "writes faster than it can be read within `scan.max_pause`: precopy did not converge",
    "permission": "has soft-dirty bits that this user may not clear (CAP_DAC_OVERRIDE): no precopy",
    "claimed": "is being read by another samepaged, by the same soft-dirty bits: no precopy",
    "drift": "has too little of its drift budget (`scan.max_drift`) left for precopy: it was read in slices",
    "distrusted": "had soft-dirty bits that were found to miss writes: no precopy since",
}

OBSTACLES: Final[Words] = {
    "hugetlb": "has its memory in huge pages of hugetlbfs (`<hugepages/>`), which KSM does not merge",
    "shared": "shares its memory with other processes (memfd, file, vhost-user), which KSM does not merge",
    "nosharepages": "says `<nosharepages/>` in its XML",
    "pinned": "has a device of the host (VFIO, vDPA), which pins its memory; KSM merges no pinned page",
    "not_offered": "has memory that QEMU did not offer to KSM: `mem-merge=off`, or a kernel without KSM at its start",
}

SHORT_OBSTACLES: Final[Words] = {
    "hugetlb": "huge pages of hugetlbfs",
    "shared": "memory shared with other processes",
    "nosharepages": "<nosharepages/>",
    "pinned": "pinned by a device (VFIO, vDPA)",
    "not_offered": "not offered to KSM by QEMU",
}
"""The same where there is little room, and no Markdown."""
