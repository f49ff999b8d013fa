"""Cost of hashing relative to copying, native and in Python, and its effect on another thread.

Every figure is a ratio of two things measured side by side on the same memory of another process, the median over
rounds: absolute rates drift with the machine, these hardly.
"""

from __future__ import annotations

import ctypes
import mmap
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bench.row import line
from samepaged.memory.hashing import Hasher, NativeHasher, PythonHasher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.row import Row

__all__ = ["rows"]

MIB: Final = 1 << 20
PAGE: Final = 4096
SEED: Final = 0x5EED
HELD: Final = 512 * MIB
ROUNDS: Final = 15
GAP_ROUNDS: Final = 5
# Chunk size of the copy without hashing. Speed is constant from here to 4 MiB; smaller chunks are slower.
CHUNK: Final = MIB

HOLDER: Final = """
import ctypes, mmap, sys
import numpy as np
size = int(sys.argv[1])
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(getattr(mmap, sys.argv[2]))
words = np.frombuffer(memory, dtype=np.uint64)
random = np.random.default_rng(0)
for start in range(0, len(words), 1 << 20):
    words[start : start + (1 << 20)] = random.integers(1, 2**64, size=min(1 << 20, len(words) - start), dtype=np.uint64)
print(words.ctypes.data, flush=True)
sys.stdin.read()
"""


class Range(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Held:
    """`size` bytes of random content in process `pid`, from `start`."""

    def __init__(self, pid: int, start: int, size: int) -> None:
        self.pid = pid
        self.start = start
        self.size = size
        self.addresses = np.arange(start, start + size, PAGE, dtype=np.uint64)
        self.hashes = np.empty(len(self.addresses), dtype=np.uint64)
        # Made beforehand, and each call with one range: the copy alone has next to nothing to do in Python.
        self.ranges = [ctypes.byref(Range(address, CHUNK)) for address in range(start, start + size, CHUNK)]

    def hash(self, hasher: Hasher, threads: int = 1) -> None:
        hasher.read_process(self.pid, self.addresses, self.hashes, PAGE, SEED, threads=threads)

    def copy(self, threads: int = 1) -> None:
        """process_vm_readv of it all in chunks of CHUNK, one after the other into the same place."""
        share = len(self.ranges) // threads
        shares = [self.ranges[first : first + share] for first in range(0, len(self.ranges), share)]
        if threads == 1:
            self._copy(shares[0])
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._copy, shares))

    def _copy(self, ranges: list[Any]) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        buffer = mmap.mmap(-1, CHUNK, flags=flags)
        local = ctypes.byref(Range(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), CHUNK))
        read, pid = libc.process_vm_readv, self.pid
        for one in ranges:
            if read(pid, local, 1, one, 1, 0) != CHUNK:
                raise OSError(ctypes.get_errno(), "process_vm_readv")


libc: Final = ctypes.CDLL(None, use_errno=True)
libc.process_vm_readv.restype = ctypes.c_ssize_t


@contextmanager
def held(advice: str, size: int = HELD) -> Iterator[Held]:
    """A process that holds `size` bytes, with madvise `advice` applied."""
    command = [sys.executable, "-c", HOLDER, str(size), advice]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        yield Held(holder.pid, int(holder.stdout.readline()), size)
        holder.terminate()


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed_ratio(work: Callable[[], None], reference: Callable[[], None], rounds: int = ROUNDS) -> float:
    """The speed of `work` ÷ that of `reference`: the median over rounds, each of one run of both, turn about."""
    ratios = []
    work()
    reference()
    for turn in range(rounds):
        if turn % 2:
            own = seconds(work)
            other = seconds(reference)
        else:
            other = seconds(reference)
            own = seconds(work)
        ratios.append(other / own)
    return statistics.median(ratios)


def longest_gap(work: Callable[[], None]) -> float:
    """The longest time in seconds between two ticks of a thread that sleeps a millisecond, while `work` runs."""
    done = threading.Event()
    gaps: list[float] = []

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        work()
    finally:
        done.set()
        ticking.join()
    return max(gaps)


def rows() -> Iterator[Row]:
    """The figures, each as soon as it is there."""
    native, python = NativeHasher(), PythonHasher()
    for pages, advice in (("4 KiB pages", "MADV_NOHUGEPAGE"), ("huge pages", "MADV_HUGEPAGE")):
        with held(advice) as memory:
            for threads in (1, 2):
                ratio = speed_ratio(
                    lambda memory=memory, threads=threads: memory.hash(native, threads),  # type: ignore[misc]
                    lambda memory=memory, threads=threads: memory.copy(threads),  # type: ignore[misc]
                )
                name = f"read and hash ÷ copy alone, {pages}, {threads} thread{'s' * (threads > 1)}"
                yield {"name": name, "value": round(ratio, 3), "unit": "ratio", "at_least": 0.80}
            ratio = speed_ratio(
                lambda memory=memory: memory.hash(native),  # type: ignore[misc]
                lambda memory=memory: memory.hash(python),  # type: ignore[misc]
                rounds=5,
            )
            name = f"read and hash, native ÷ Python, {pages}, 1 thread"
            yield {"name": name, "value": round(ratio, 2), "unit": "ratio", "at_least": 2}
    with held("MADV_HUGEPAGE", 1024 * MIB) as memory:
        gap = statistics.median(longest_gap(lambda: memory.hash(native)) for _ in range(GAP_ROUNDS))
        name = "longest gap of a thread that ticks every millisecond, while 1 GiB is hashed"
        yield {"name": name, "value": round(gap * 1000, 2), "unit": "ms", "at_most": 10}


if __name__ == "__main__":
    for row in rows():
        print(line(row), flush=True)
