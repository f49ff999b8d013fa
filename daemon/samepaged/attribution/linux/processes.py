"""The guest's processes: names and memory maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.attribution.linux.struct_reader import HALF, is_kernel, list_entries, read_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.attribution.linux.kernel import Kernel

__all__ = ["MemoryMaps", "read_memory_maps"]

MAX_PROCESSES: Final = 1 << 15
# If the first task of a process has ended, at most this many others are searched for a running one.
MAX_THREADS: Final = 1024
MAX_NAME_BYTES: Final = 16
# PF_KTHREAD: a kernel thread may use a process's memory map for a while (include/linux/sched.h).
KERNEL_THREAD: Final = np.uint64(0x00200000)


@dataclass(frozen=True, slots=True)
class MemoryMaps:
    """The n memory maps (struct mm_struct) of processes, each once.

    `addresses` of the structs; `roots` (int64): guest-physical addresses of their page tables, -1 if unknown; `heaps`
    and `heap_ends` (start_brk and brk), `stacks` (start_stack). `names` are the processes' names, each once. A process
    with the name `users[1][i]` uses the map `users[0][i]`.
    """

    addresses: NDArray[np.uint64]
    roots: NDArray[np.int64]
    heaps: NDArray[np.uint64]
    heap_ends: NDArray[np.uint64]
    stacks: NDArray[np.uint64]
    names: tuple[str, ...]
    users: tuple[NDArray[np.int64], NDArray[np.int64]]


def read_memory_maps(kernel: Kernel) -> MemoryMaps:
    """Read the memory maps of all processes. Raises Unreadable."""
    profile = kernel.profile
    tasks, leaders, maps = _tasks(kernel)
    mms, which = np.unique(maps, return_inverse=True)
    comms = kernel.strings(leaders + np.uint64(profile.offset("task_struct.comm")), MAX_NAME_BYTES)
    known: dict[str, int] = {}
    numbers = np.array([known.setdefault(name or "?", len(known)) for name in comms], dtype=np.int64)
    pairs = np.unique(which * max(len(known), 1) + numbers) if len(tasks) else np.empty(0, dtype=np.int64)
    wanted = [profile.offset(f"mm_struct.{name}") for name in ("pgd", "start_brk", "brk", "start_stack")]
    (roots, heaps, heap_ends, stacks), ok = read_members(kernel, mms, wanted)
    return MemoryMaps(
        addresses=mms,
        roots=np.where(ok, kernel.translate(roots), -1),
        heaps=heaps,
        heap_ends=heap_ends,
        stacks=stacks,
        names=tuple(known),
        users=(pairs // max(len(known), 1), pairs % max(len(known), 1)),
    )


def _tasks(kernel: Kernel) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return a task with a memory map of each process; the process's first task, which has its name; and the map."""
    profile = kernel.profile
    link = profile.offset("task_struct.tasks")
    init = profile.symbol("init_task")
    leaders = np.array(list_entries(kernel, init + link, MAX_PROCESSES), dtype=np.uint64) - np.uint64(link)
    wanted = [profile.offset(f"task_struct.{name}") for name in ("mm", "flags", "signal")]
    (maps, flags, signals), ok = read_members(kernel, leaders, wanted)
    ok &= flags & HALF & KERNEL_THREAD == 0
    leaders, maps, signals = leaders[ok], maps[ok], signals[ok]
    # A first task that has ended lost its map, but other tasks of its process may still run.
    ended = ~is_kernel(maps)
    others, of = _threads(kernel, leaders[ended], signals[ended])
    (their,), held = read_members(kernel, others, (wanted[0],))
    held &= is_kernel(their)
    return (
        np.concatenate((leaders[~ended], others[held])),
        np.concatenate((leaders[~ended], of[held])),
        np.concatenate((maps[~ended], their[held])),
    )


def _threads(
    kernel: Kernel, leaders: NDArray[np.uint64], signals: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return all tasks of these processes, and each one's process, following all lists in parallel."""
    profile = kernel.profile
    heads = signals + np.uint64(profile.offset("signal_struct.thread_head"))
    node = np.uint64(profile.offset("task_struct.thread_node"))
    found, owned = [], []
    at, ok = kernel.words(np.where(is_kernel(signals), heads, np.uint64(0)))
    for _ in range(MAX_THREADS):
        ok &= is_kernel(at) & (at != heads)
        at, heads, leaders = at[ok], heads[ok], leaders[ok]
        if not len(at):
            break
        found.append(at - node)
        owned.append(leaders)
        at, ok = kernel.words(at)
    empty = np.empty(0, dtype=np.uint64)
    return np.concatenate([empty, *found]), np.concatenate([empty, *owned])
