"""A process that writes its memory on command: the test's side, and, run as a program, the process itself.

It stands for a QEMU with a guest that writes exactly as the test requests. Its region is one mapping between two
inaccessible ones, so that the kernel does not merge it with another; and it is marked MADV_DONTFORK, as QEMU marks RAM.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["HUGE_PAGE", "PAGE", "WriterProcess", "writer_process"]

PAGE = 4096
HUGE_PAGE = 2 << 20
MAP_FIXED = 0x10
# The kinds of region: private in 4 KiB pages; private in 2 MiB pages if the kernel can provide them; a memfd, mapped
# shared; a file of huge pages from the pool (/proc/sys/vm/nr_hugepages), mapped privately, as libvirt does.
KINDS = ("private", "huge", "memfd", "hugetlb")


class WriterProcess:
    """The test's side of one such process: `pid`, and the `address` and `pages` (of 4 KiB) of its region."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        hello = self._answer()
        self.address: int = hello["address"]
        self.pages: int = hello["pages"]
        self._memfd: int | None = hello["memfd"]

    @property
    def size(self) -> int:
        """The region's length in bytes."""
        return self.pages * PAGE

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            message = f"the writer process ended with status {self._process.wait()}"
            raise RuntimeError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _tell(self, act: str, *words: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([act, *words]) + "\n")
        self._process.stdin.flush()
        assert self._answer() == {"done": act}

    def fill(self, first: int, count: int, seed: int, distinct: int) -> None:
        """Fill the pages first … first+count with `distinct` contents in turn (0: zeros), like the testbed's guests."""
        self._tell("fill", first, count, seed, distinct)

    def touch(self, pages: Sequence[int]) -> None:
        """Change eight bytes of each of these pages."""
        self._tell("touch", list(pages))

    def read(self, pages: Sequence[int]) -> None:
        """Read a byte of each of these pages."""
        self._tell("read", list(pages))

    def discard(self, first: int, count: int) -> None:
        """Discard pages with MADV_DONTNEED, as QEMU does for a balloon: the pages become zeros, and absent."""
        self._tell("advise", mmap.MADV_DONTNEED, first, count)

    def offer_to_ksm(self) -> None:
        """Set MADV_MERGEABLE for the whole region, as QEMU does with RAM by default."""
        self._tell("advise", mmap.MADV_MERGEABLE, 0, self.pages)

    def keep_writing(self, seed: int, pages_a_second: int) -> None:
        """Write `pages_a_second` random pages per second until `stop_writing`."""
        self._tell("keep_writing", seed, pages_a_second)

    def stop_writing(self) -> None:
        """Stop writing random pages."""
        self._tell("stop_writing")

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop the process, and wait until it has stopped, because kill(2) returns earlier."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            wait_for(self._stands_still, 30, f"process {self.pid} stands still", every=0.001)
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _stands_still(self) -> bool:
        return {task.read_text().rpartition(")")[2].split()[0] for task in self._tasks()} == {"T"}

    def _tasks(self) -> Iterator[Path]:
        return Path(f"/proc/{self.pid}/task").glob("*/stat")

    def content(self) -> list[bytes]:
        """Return the content of the pages, read from /proc/PID/mem, which makes absent pages present."""
        with Path(f"/proc/{self.pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(self.address)
            return [memory.read(PAGE) for _ in range(self.pages)]

    @contextlib.contextmanager
    def second_mapping(self) -> Iterator[mmap.mmap]:
        """Map the memfd of a region of that kind in the test's own process, as a vhost-user backend maps RAM."""
        assert self._memfd is not None, "only a region of kind memfd can be mapped twice"
        with (
            Path(f"/proc/{self.pid}/fd/{self._memfd}").open("r+b") as file,
            mmap.mmap(file.fileno(), self.size) as window,
        ):
            yield window


@contextlib.contextmanager
def writer_process(pages: int = 1024, kind: str = "private") -> Iterator[WriterProcess]:
    """Run a writer process with all pages touched, each with unique content. It is killed on exit."""
    command = [sys.executable, "-m", "tests.vm.writer_process", str(pages), kind]
    tree = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield WriterProcess(process)
        finally:
            process.kill()


class Region:
    """The process's side: the region, and the operations that tests request."""

    def __init__(self, pages: int, kind: str) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        self.libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self.pages = pages
        self.memfd = os.memfd_create("memory-backend-memfd") if kind == "memfd" else None
        if kind == "hugetlb":
            self.memfd = os.memfd_create("memory-backend-memfd", os.MFD_HUGETLB)
        self.address = self._map(kind)
        self.advise(mmap.MADV_DONTFORK, 0, pages)
        if kind in {"private", "huge"}:
            self.advise(mmap.MADV_HUGEPAGE if kind == "huge" else mmap.MADV_NOHUGEPAGE, 0, pages)
        self.words = (ctypes.c_uint64 * (pages * 512)).from_address(self.address)
        self.writer: threading.Thread | None = None
        self.ending = threading.Event()
        self.fill(0, pages, 0, pages)

    def _map(self, kind: str) -> int:
        size = self.pages * PAGE
        anywhere = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        around = self._mmap(None, size + 3 * HUGE_PAGE, 0, anywhere, -1)
        start = (around // HUGE_PAGE + 2) * HUGE_PAGE
        how = {"memfd": mmap.MAP_SHARED, "hugetlb": mmap.MAP_PRIVATE}.get(kind, anywhere)
        if self.memfd is not None:
            os.ftruncate(self.memfd, size)
        descriptor = -1 if self.memfd is None else self.memfd
        return self._mmap(start, size, mmap.PROT_READ | mmap.PROT_WRITE, how | MAP_FIXED, descriptor)

    def _mmap(self, address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
        found: int = self.libc.mmap(address, size, protection, flags, descriptor, 0)
        if found == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        return found

    def fill(self, first: int, count: int, seed: int, distinct: int) -> None:
        contents = [random.Random(f"{seed} {number}").randbytes(PAGE) for number in range(distinct)] or [bytes(PAGE)]
        for i in range(count):
            ctypes.memmove(self.address + (first + i) * PAGE, contents[i % len(contents)], PAGE)

    def touch(self, pages: Sequence[int]) -> None:
        for page in pages:
            self.words[page * 512] = self.words[page * 512] + 1 & (1 << 64) - 1

    def read(self, pages: Sequence[int]) -> None:
        for page in pages:
            ctypes.string_at(self.address + page * PAGE, 1)

    def advise(self, advice: int, first: int, count: int) -> None:
        if self.libc.madvise(self.address + first * PAGE, count * PAGE, advice):
            raise OSError(ctypes.get_errno(), f"madvise {advice}")

    def keep_writing(self, seed: int, pages_a_second: int) -> None:
        self.stop_writing()
        self.ending.clear()
        self.writer = threading.Thread(target=self._write, args=(random.Random(seed), pages_a_second), daemon=True)
        self.writer.start()

    def _write(self, source: random.Random, pages_a_second: int) -> None:
        while not self.ending.is_set():
            self.words[source.randrange(len(self.words))] = source.getrandbits(64)
            self.ending.wait(1 / pages_a_second)

    def stop_writing(self) -> None:
        if self.writer is not None:
            self.ending.set()
            self.writer.join()
            self.writer = None


def main() -> None:
    region = Region(int(sys.argv[1]), sys.argv[2])
    acts: dict[str, Callable[..., None]] = {
        act.__name__: act
        for act in (region.fill, region.touch, region.read, region.advise, region.keep_writing, region.stop_writing)
    }
    print(json.dumps({"address": region.address, "pages": region.pages, "memfd": region.memfd}), flush=True)
    for line in sys.stdin:
        act, *words = json.loads(line)
        acts[act](*words)
        print(json.dumps({"done": act}), flush=True)


if __name__ == "__main__":
    main()
