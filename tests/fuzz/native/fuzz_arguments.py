"""Random and hostile arguments for the native module: `fuzz_arguments.py SECONDS [SEED]`.

The module may refuse them with a TypeError, ValueError, OverflowError or OSError. Run it under the sanitizers, which
detect invalid memory accesses. For accepted arguments, it must return the same hashes as its Python counterpart.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import time
from typing import Any, Final

import numpy as np

from samepaged.memory import _pagehash
from samepaged.memory.hashing import PythonHasher

PAGES: Final = 64
REFUSALS: Final = (TypeError, ValueError, OverflowError, OSError)
area: Final = mmap.mmap(-1, PAGES * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
words: Final = np.frombuffer(area, dtype=np.uint64)
words[512:] = np.random.default_rng(0).integers(0, 2**64, size=len(words) - 512, dtype=np.uint64)


def number(choice: random.Random) -> Any:
    edges = [0, 1, -1, 511, 512, 1024, 2048, 4096, 8192, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63)]
    return choice.choice([*edges, None, 1.5, "4096", choice.getrandbits(64)])


def array(choice: random.Random, length: int) -> Any:
    length = max(0, length + choice.choice([0, 0, 0, 0, 1, -1]))
    kind = choice.choice(["<u8"] * 6 + ["<i8", ">u8", "<f8", "<u4", "S8", "O"])
    made = np.zeros(2 * length, dtype=kind)[:: choice.choice([1, 1, 2, -1])][:length]
    made.flags.writeable = choice.random() > 0.1
    odd = (None, b"", bytearray(8 * length), memoryview(bytearray(8 * length)).cast("Q"), np.zeros((length, 1), "<u8"))
    return choice.choice([made, made, made, made, *odd])


def addresses(choice: random.Random, length: int) -> Any:
    start = words.ctypes.data
    made = np.array([start + 4096 * choice.randrange(PAGES) for _ in range(length)], dtype=np.uint64)
    if length and choice.random() < 0.2:
        made[choice.randrange(length)] = choice.choice([0, 1, 4096, 2**47, 2**63, 2**64 - 4096, 2**64 - 1, start + 8])
    return made if choice.random() < 0.9 else array(choice, length)


def one_buffer(choice: random.Random) -> bool:
    page_size = choice.choice([512, 1024, 2048, 4096, 8192, number(choice)])
    seed = choice.choice([0, 2**64 - 1, choice.getrandbits(64), number(choice)])
    pages = choice.randrange(6)
    content: Any = choice.choice(
        [choice.randbytes(pages * 4096), bytes(pages * 4096), words[: 512 * pages], area, None, 7]
    )
    out = array(choice, pages)
    try:
        _pagehash.hash_buffer(content, out, page_size, seed)
    except REFUSALS:
        return False
    twin = np.zeros(len(out), dtype=np.uint64)
    PythonHasher().hash_buffer(content, twin, page_size, seed)
    assert np.array_equal(np.asarray(out), twin), (page_size, seed)
    return True


def one_read(choice: random.Random) -> bool:
    page_size = choice.choice([512, 1024, 2048, 4096, number(choice)])
    seed = choice.choice([0, 2**64 - 1, choice.getrandbits(64), number(choice)])
    pages = choice.randrange(40)
    # The other numbers are never the pid of a process: pid_max is 2**22.
    pid: Any = choice.choice([os.getpid()] * 20 + [0, -1, -(2**31), 2**22 + 1, 2**31 - 1, 2**31, 1.5, None])
    where = addresses(choice, pages)
    out = array(choice, pages * 4096 // page_size if page_size in {512, 1024, 2048, 4096} else pages)
    scratch: Any = choice.choice(
        [bytearray(4096), bytearray(8192), bytearray(100_000), bytearray(9), bytes(8192), bytearray(1 << 21), None]
    )
    try:
        _pagehash.hash_process(pid, where, out, scratch, page_size, seed)
    except REFUSALS:
        return False
    twin = np.zeros(len(out), dtype=np.uint64)
    PythonHasher().read_process(os.getpid(), np.asarray(where), twin, page_size, seed)
    assert np.array_equal(np.asarray(out), twin), (page_size, seed)
    return True


def main() -> None:
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    print(f"fuzz_arguments: {seconds:g} s, seed {seed}", flush=True)
    choice = random.Random(seed)
    end = time.monotonic() + seconds
    accepted = {True: 0, False: 0}
    while time.monotonic() < end:
        accepted[one_buffer(choice)] += 1
        accepted[one_read(choice)] += 1
    print(f"fuzz_arguments: {accepted[True]} accepted, {accepted[False]} refused")
    assert min(accepted.values()) > 0


if __name__ == "__main__":
    main()
