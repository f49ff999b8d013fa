"""Copying pages of a process, and its effect on shared pages, which stand for pages merged by KSM."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.errors import GuestError, Reason
from samepaged.memory.hashing import PythonHasher, best_hasher, hash_copied_pages
from samepaged.memory.process_vm import ProcessMemory, copy_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PAGE = 4096
PAGES = 512
NO_HUGE_PAGES = 15  # MADV_NOHUGEPAGE


@contextmanager
def sharing() -> Iterator[tuple[int, NDArray[np.uint64], bytes]]:
    """A child process that shares these pages with this process since the fork. Like pages merged by KSM, they are not
    exclusive.
    """
    memory = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(NO_HUGE_PAGES)
    rng = np.random.default_rng(1)
    memory[:] = rng.integers(0, 256, PAGES * PAGE, dtype=np.uint8).tobytes()
    anchor = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(anchor)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        yield child, np.arange(start, start + PAGES * PAGE, PAGE, dtype=np.uint64), memory[:]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        del anchor
        memory.close()


def shared_pages(pid: int, address: int) -> int:
    """Number of shared pages in the mapping at this address."""
    here = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = int(header[1], 16) <= address < int(header[2], 16)
        elif here and (found := re.fullmatch(r"Shared_Dirty: +(\d+) kB", line)):
            return int(found[1]) * 1024 // PAGE
    raise LookupError(f"no mapping of process {pid} at {address:#x}")


def test_reading_keeps_pages_merged() -> None:
    with sharing() as (child, addresses, content):
        before = shared_pages(child, int(addresses[0]))
        assert before >= PAGES
        buffer = memoryview(bytearray(PAGES * PAGE))
        with ProcessMemory(child) as memory:
            memory.copy(addresses, buffer)
        assert buffer == content
        assert shared_pages(child, int(addresses[0])) == before


def test_mapped_reads_would_unmerge_pages() -> None:
    with sharing() as (child, addresses, content):
        before = shared_pages(child, int(addresses[0]))
        buffer = memoryview(bytearray(PAGES * PAGE))
        copy_process(child, addresses, buffer)
        assert buffer == content
        if shared_pages(child, int(addresses[0])) > before - PAGES:
            pytest.skip("this kernel (before Linux 5.19) does not unshare what is pinned")


@pytest.mark.parametrize("threads", [1, 3])
def test_both_copy_methods_agree(threads: int) -> None:
    rng = np.random.default_rng(2)
    with sharing() as (child, addresses, _), ProcessMemory(child) as memory:
        some = addresses[np.flatnonzero(rng.integers(0, 2, PAGES))]
        found, twin = np.empty(len(some), dtype=np.uint64), np.empty(len(some), dtype=np.uint64)
        hash_copied_pages(memory.copy, best_hasher(), some, found, PAGE, 7, threads)
        PythonHasher().read_process(child, some, twin, PAGE, 7)
        assert (found == twin).all()


def test_unmapped_address_is_an_error() -> None:
    with sharing() as (child, _, _), ProcessMemory(child) as memory:
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            memory.copy(np.zeros(1, dtype=np.uint64), memoryview(bytearray(PAGE)))
        assert caught.value.errno in {errno.EFAULT, errno.EIO}


def test_process_end_is_detected() -> None:
    with sharing() as (child, addresses, _):
        with ProcessMemory(child) as memory:
            os.kill(child, signal.SIGKILL)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
            with pytest.raises(ProcessLookupError):
                memory.copy(addresses, memoryview(bytearray(PAGES * PAGE)))
        with pytest.raises(GuestError) as caught:
            ProcessMemory(2**22 + 1)
        assert caught.value.reason is Reason.GONE


def test_unaligned_address_is_refused() -> None:
    with ProcessMemory(os.getpid()) as memory, pytest.raises(ValueError, match="not the address of a page"):
        memory.copy(np.array([1], dtype=np.uint64), memoryview(bytearray(PAGE)))
