from __future__ import annotations

import mmap
import os
from functools import partial

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from samepaged.memory.hashing import PythonHasher, SubpageDigests, avoid_reserved, best_hasher
from samepaged.memory.process_vm import copy_process
from samepaged.sharing import ABSENT, SWAPPED, ZERO

PAGE = 4096


@given(st.lists(st.sampled_from([b"\0", b"a", b"b"]), min_size=8, max_size=8), st.sampled_from([1024, 2048]))
def test_subpages_have_own_hashes(fills: list[bytes], size: int) -> None:
    content = b"".join(fill * 1024 for fill in fills)  # two pages
    finer = SubpageDigests(4, [size], PythonHasher(), 7)
    finer.hash(memoryview(content), np.array([1, 3]))
    finer.settle(np.array([ABSENT, 99, SWAPPED, 99], dtype=np.uint64))

    def expected(part: bytes) -> int:
        return avoid_reserved(xxhash.xxh3_64_intdigest(part, 7)) if part.strip(b"\0") else ZERO

    ratio = PAGE // size
    parts = [expected(content[at : at + size]) for at in range(0, len(content), size)]
    assert finer.parts[size].tolist() == [ABSENT] * ratio + parts[:ratio] + [SWAPPED] * ratio + parts[ratio:]


def test_process_is_read_once() -> None:
    count = 600
    with mmap.mmap(-1, count * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        for page in range(count):
            area[page * PAGE : page * PAGE + 3000] = page.to_bytes(2, "little") * 1500
        start = np.frombuffer(area, np.uint8).ctypes.data
        pages = np.arange(0, count, 3)
        finer = SubpageDigests(count, [1024, 2048], best_hasher(), 7)
        out = np.empty(len(pages), dtype=np.uint64)
        addresses = (start + pages * PAGE).astype(np.uint64)
        finer.read_process(partial(copy_process, os.getpid()), addresses, pages, out, lambda: False)
        twin = np.empty(len(pages), dtype=np.uint64)
        PythonHasher().read_process(os.getpid(), addresses, twin, PAGE, 7)
        np.testing.assert_array_equal(out, twin)
        for size, parts in finer.parts.items():
            twin = np.empty(len(pages) * (PAGE // size), dtype=np.uint64)
            PythonHasher().read_process(os.getpid(), addresses, twin, size, 7)
            np.testing.assert_array_equal(parts.reshape(count, -1)[::3].ravel(), twin)
