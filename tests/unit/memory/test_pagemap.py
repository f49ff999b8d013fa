from __future__ import annotations

import errno
import mmap
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samepaged.errors import GuestError, Reason
from samepaged.memory import ram_location
from samepaged.memory.backing_file import BackingFile
from samepaged.memory.pagemap import PRESENT, SWAPPED, Pagemap, decode, residency
from samepaged.memory.ram_location import RamMapping, locate_ram

PAGE = 4096
MAPPING = RamMapping(0, 8 * PAGE, (0, 1), 7, 0, "/memfd:x", shared=False, hugetlb=False, mergeable=False)
flags = hnp.arrays(np.bool_, 8)


@given(st.lists(st.sampled_from([0, int(PRESENT), int(SWAPPED)]), min_size=8, max_size=8), flags, flags, st.booleans())
def test_each_page_has_one_residency(
    entries: list[int],
    held: np.ndarray,
    resident: np.ndarray,
    shared: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    array = np.array(entries, dtype=np.uint64)
    for where in (residency(array, None, None, shared=False), residency(array, held, resident, shared=shared)):
        assert (where.in_process.astype(int) + where.in_file + where.swapped <= 1).all()


def test_private_pages_move_on_write() -> None:
    entries = np.array([PRESENT, 0, SWAPPED, 0] * 2, dtype=np.uint64)
    held = np.array([True, True, True, False] * 2)
    where = residency(entries, held, np.ones(8, dtype=np.bool_), shared=False)
    assert where.in_process.tolist() == [True, False, False, False] * 2
    assert where.in_file.tolist() == [False, True, False, False] * 2
    assert where.swapped.tolist() == [False, False, True, False] * 2


def test_evicted_shared_page_is_swapped() -> None:
    entries = np.full(8, PRESENT)
    held = np.ones(8, dtype=np.bool_)
    where = residency(entries, held, np.array([True, False] * 4), shared=True)
    assert where.swapped.tolist() == [False, True] * 4
    assert not where.in_process.any()


def own_mapping(area: mmap.mmap) -> RamMapping:
    area.madvise(mmap.MADV_DONTFORK)  # as QEMU marks RAM
    address = np.frombuffer(area, np.uint8).ctypes.data
    (vma,) = [one for one in ram_location.read_smaps(os.getpid()) if one.start <= address < one.end]
    return replace(locate_ram([vma], [vma.size])[0], start=address, size=len(area))


def test_pagemap_tells_touched_pages_from_others() -> None:
    area = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    area[3 * PAGE] = 1
    area[7 * PAGE] = 0  # written, but with a zero
    with Pagemap(os.getpid()) as pagemap:
        entries = pagemap.entries(np.frombuffer(area, np.uint8).ctypes.data, 1 << 20)
    assert np.flatnonzero(entries & PRESENT).tolist() == [3, 7]


def test_short_pagemap_means_process_ended() -> None:
    with pytest.raises(GuestError) as caught:
        decode(b"12345678", 2)
    assert caught.value.reason is Reason.GONE
    with pytest.raises(GuestError):
        Pagemap(2**22 + 1)


@pytest.mark.parametrize("where", ["memfd", "tmpfs", "disk"])
def test_reading_keeps_file_holes(where: str, tmp_path: Path) -> None:
    if where == "memfd":
        descriptor = os.memfd_create("memory-backend-memfd")
    else:
        directory = Path("/dev/shm") if where == "tmpfs" else tmp_path  # noqa: S108 - the test needs a tmpfs
        path = directory / f"samepaged-test-{os.getpid()}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        path.unlink()
    try:
        os.ftruncate(descriptor, 64 * PAGE)
        with mmap.mmap(descriptor, 64 * PAGE, mmap.MAP_SHARED) as area:
            area[5 * PAGE : 6 * PAGE] = b"x" * PAGE
            area[40 * PAGE : 42 * PAGE] = b"y" * 2 * PAGE
            os.fsync(descriptor)
            blocks = os.fstat(descriptor).st_blocks
            with BackingFile(os.getpid(), own_mapping(area)) as file:
                held = file.holds_data(slice(0, 64))
                assert held[[5, 40, 41]].all()
                assert held.sum() <= 16  # a disk's file system may round up
                assert file.holds_data(slice(39, 42)).tolist() == held[39:42].tolist()
                assert file.resident(slice(0, 64))[[5, 40, 41]].all()
                buffer = bytearray(b"?" * 3 * PAGE)
                file.read_into(memoryview(buffer), 39)
                assert bytes(buffer) == bytes(PAGE) + b"y" * 2 * PAGE
                file.read_into(memoryview(buffer), 62)
                assert bytes(buffer) == bytes(3 * PAGE)
            assert os.fstat(descriptor).st_blocks == blocks
    finally:
        os.close(descriptor)


def test_unseekable_file_is_guest_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    descriptor = os.memfd_create("memory-backend-memfd")
    try:
        os.ftruncate(descriptor, PAGE)
        with (
            mmap.mmap(descriptor, PAGE, mmap.MAP_SHARED) as area,
            BackingFile(os.getpid(), own_mapping(area)) as file,
        ):
            monkeypatch.setattr(os, "lseek", fail)
            with pytest.raises(GuestError, match=r"memory-backend-memfd.*\(Input/output error\); try again") as caught:
                file.holds_data(slice(0, 1))
    finally:
        os.close(descriptor)
    assert caught.value.reason is Reason.READ


def test_missing_backing_file_has_a_remedy() -> None:
    with pytest.raises(GuestError, match="CAP_SYS_PTRACE") as caught:
        BackingFile(os.getpid(), replace(MAPPING, inode=2**40))
    assert caught.value.reason is Reason.NO_PERMISSION
