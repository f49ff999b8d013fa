"""Page hashes of a buffer or of another process's memory, in whole pages or subpages. The native hasher and the Python
hasher give equal results.

The hash of a zero page is `ZERO`, of any other page the seeded XXH3-64 of its bytes, moved out of the reserved values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import xxhash

from samepaged.arch import PAGE_SIZE
from samepaged.memory.locked_buffer import locked_buffer
from samepaged.memory.process_vm import copy_process
from samepaged.sharing.digest import FIRST_HASH, ZERO
from samepaged.sharing.parallel import run_in_threads

try:
    from samepaged.memory import _pagehash
except ImportError:  # the package was built without a C compiler or without libxxhash
    _pagehash = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

__all__ = [
    "Hasher",
    "Hashing",
    "Interrupted",
    "NativeHasher",
    "PythonHasher",
    "SubpageDigests",
    "best_hasher",
    "hash_copied_pages",
]

MIN_PAGE_BYTES: Final = 512
MAX_SEED: Final = 2**64 - 1

# Pages read between two calls of `stop` (64 MiB): about ten milliseconds. Returning to Python takes microseconds.
STEP_PAGES: Final = 16384
MIN_STEP_PAGES: Final = 256

# Pages that one system call reads (2 MiB, see _pagehash_kernel.h), and so the size of a thread's buffer.
CHUNK_PAGES: Final = 512
SUBPAGE_CHUNK_PAGES: Final = 256


class Interrupted(Exception):  # noqa: N818  not an error: the caller requested it through `stop`
    """A read ended early because `stop` returned true."""


def _never() -> bool:
    return False


class Hasher(Protocol):
    """Hashes pages. `out` is uint64 of shape (pages,): `ZERO`, or a hash of at least `FIRST_HASH`. `seed` is from 0 to
    2**64 - 1. Arrays are contiguous. Raises ValueError or TypeError if arguments do not fit together.
    """

    @property
    def name(self) -> str:
        """`native` or `python`."""

    def hash_buffer(self, buffer: ReadableBuffer, out: NDArray[np.uint64], page_size: int, seed: int) -> None:
        """Hash the first len(out) pages of `buffer`. `page_size` is a power of two, at least 512. The call cannot be
        interrupted, so the caller bounds the length.
        """

    def read_process(
        self,
        pid: int,
        addresses: NDArray[np.uint64],
        out: NDArray[np.uint64],
        page_size: int,
        seed: int,
        threads: int = 1,
        stop: Callable[[], bool] = _never,
    ) -> None:
        """Hash the 4 KiB pages at `addresses` of process `pid`, in parts of `page_size` bytes: a power of two from 512
        to 4096, so that `out` has shape (len(addresses) * 4096 // page_size,).

        Each of the `threads` calls `stop` about every ten milliseconds. Raises Interrupted if it returns true, and
        OSError with the errno of process_vm_readv (ESRCH: the process does not exist; EPERM; EFAULT: the address is not
        mapped) and the address of the page.
        """


class NativeHasher:
    """The C module: hashes at the speed of a memory copy and releases the GIL. Raises ImportError if it was not
    built.
    """

    name = "native"

    def __init__(self) -> None:
        if _pagehash is None:
            raise ImportError("samepaged was built without its native module; install a C compiler and libxxhash-dev")

    def hash_buffer(self, buffer: ReadableBuffer, out: NDArray[np.uint64], page_size: int, seed: int) -> None:
        """As in Hasher."""
        _pagehash.hash_buffer(buffer, out, page_size, seed)

    def read_process(
        self,
        pid: int,
        addresses: NDArray[np.uint64],
        out: NDArray[np.uint64],
        page_size: int,
        seed: int,
        threads: int = 1,
        stop: Callable[[], bool] = _never,
    ) -> None:
        """As in Hasher."""
        parts = _check_read(pid, addresses, out, page_size, seed)

        def step(start: int, end: int, buffer: memoryview) -> None:
            hashes = out[start * parts : end * parts]
            _pagehash.hash_process(pid, addresses[start:end], hashes, buffer, page_size, seed)

        _in_steps(step, len(addresses), threads, stop)


class PythonHasher:
    """The Python implementation, used without the C module. Tests compare the results of the two."""

    name = "python"

    def hash_buffer(self, buffer: ReadableBuffer, out: NDArray[np.uint64], page_size: int, seed: int) -> None:
        """As in Hasher."""
        _check(page_size, seed)
        _check_array(out, "out", writable=True)
        zeros = bytes(page_size)
        with memoryview(buffer) as view, view.cast("B") as octets:
            if len(out) > len(octets) // page_size:
                raise ValueError(f"{len(out)} pages of {page_size} bytes exceed a buffer of {len(octets)} bytes")
            for index in range(len(out)):
                page = octets[index * page_size : (index + 1) * page_size]
                out[index] = ZERO if page == zeros else avoid_reserved(xxhash.xxh3_64_intdigest(page, seed))

    def read_process(
        self,
        pid: int,
        addresses: NDArray[np.uint64],
        out: NDArray[np.uint64],
        page_size: int,
        seed: int,
        threads: int = 1,
        stop: Callable[[], bool] = _never,
    ) -> None:
        """As in Hasher."""
        _check_read(pid, addresses, out, page_size, seed)
        hash_copied_pages(partial(copy_process, pid), self, addresses, out, page_size, seed, threads, stop)


def hash_copied_pages(
    copy: Callable[[NDArray[np.uint64], memoryview], None],
    hasher: Hasher,
    addresses: NDArray[np.uint64],
    out: NDArray[np.uint64],
    page_size: int,
    seed: int,
    threads: int = 1,
    stop: Callable[[], bool] = _never,
) -> None:
    """As Hasher.read_process, for pages that `copy(addresses, scratch)` stores consecutively in the scratch buffer."""
    parts = PAGE_SIZE // page_size

    def step(start: int, end: int, buffer: memoryview) -> None:
        for first in range(start, end, CHUNK_PAGES):
            last = min(first + CHUNK_PAGES, end)
            copy(addresses[first:last], buffer)
            hasher.hash_buffer(buffer, out[first * parts : last * parts], page_size, seed)

    _in_steps(step, len(addresses), threads, stop)


class SubpageDigests:
    """Digests of the same memory in subpages, hashed from the same bytes as the pages (Barker et al., section 4.4):
    `parts[size]` is uint64 of shape (pages * 4096 / size,). A reader passes the bytes of each page that it hashes to
    `hash`; `settle` then sets the subpages of the other pages.
    """

    def __init__(self, pages: int, sizes: Sequence[int], hasher: Hasher, seed: int) -> None:
        self.parts = {size: np.zeros(pages * (PAGE_SIZE // size), dtype=np.uint64) for size in sizes}
        self._hasher = hasher
        self._seed = seed

    def hash(self, buffer: memoryview, pages: NDArray[np.intp]) -> None:
        """Hash the subpages of the pages with these numbers; the buffer has their bytes, consecutively."""
        for size, parts in self.parts.items():
            ratio = PAGE_SIZE // size
            hashes = np.empty(len(pages) * ratio, dtype=np.uint64)
            self._hasher.hash_buffer(buffer, hashes, size, self._seed)
            parts.reshape(-1, ratio)[pages] = hashes.reshape(-1, ratio)

    def settle(self, digest: NDArray[np.uint64]) -> None:
        """Set the subpages of each page without a hash to the page's state: absent, swapped, or zero."""
        for size, parts in self.parts.items():
            marked = np.flatnonzero(digest < FIRST_HASH)
            parts.reshape(-1, PAGE_SIZE // size)[marked] = digest[marked, np.newaxis]

    def read_process(
        self,
        copy: Callable[[NDArray[np.uint64], memoryview], None],
        addresses: NDArray[np.uint64],
        pages: NDArray[np.intp],
        out: NDArray[np.uint64],
        stop: Callable[[], bool],
    ) -> None:
        """Read the pages with these numbers at these addresses of a process once, with `copy(addresses, buffer)`, and
        hash them in every size. `out` receives the hashes of whole pages. Raises as Hasher.read_process does.
        """
        buffer = locked_buffer(SUBPAGE_CHUNK_PAGES * PAGE_SIZE)
        for start in range(0, len(pages), SUBPAGE_CHUNK_PAGES):
            if stop():
                raise Interrupted
            chunk = pages[start : start + SUBPAGE_CHUNK_PAGES]
            copy(addresses[start : start + SUBPAGE_CHUNK_PAGES], buffer)
            self._hasher.hash_buffer(buffer, out[start : start + SUBPAGE_CHUNK_PAGES], PAGE_SIZE, self._seed)
            self.hash(buffer[: len(chunk) * PAGE_SIZE], chunk)


@dataclass(frozen=True, slots=True)
class Hashing:
    """Parameters of hashing in a scan: hasher, seed, number of threads, and the condition to stop. With `subpages`,
    subpages are hashed as well.
    """

    hasher: Hasher
    seed: int = field(repr=False)  # with it, a hash proves the content of a page
    threads: int
    stop: Callable[[], bool]
    subpages: SubpageDigests | None = None


def best_hasher() -> Hasher:
    """Return the native hasher if it was built, else the Python hasher."""
    return PythonHasher() if _pagehash is None else NativeHasher()


def avoid_reserved(value: int) -> int:
    """Return the hash, moved out of the values that are reserved for pages without a hash."""
    return value + FIRST_HASH if value < FIRST_HASH else value


def _in_steps(step: Callable[[int, int, memoryview], None], pages: int, threads: int, stop: Callable[[], bool]) -> None:
    """Call `step(start, end, scratch)` for all `pages`, on `threads` threads with a scratch buffer each."""
    # Small reads are divided among the threads too, because a guest is suspended during them.
    size = max(MIN_STEP_PAGES, min(STEP_PAGES, pages // (4 * max(threads, 1))))
    steps = -(-pages // size)
    following = count()
    failed = False

    def work() -> None:
        nonlocal failed
        own = locked_buffer(min(CHUNK_PAGES, size, pages) * PAGE_SIZE)
        while not failed and (index := next(following)) < steps:
            try:
                if stop():
                    raise Interrupted  # noqa: TRY301  the handler below stops the other threads too
                step(index * size, min((index + 1) * size, pages), own)
            except BaseException:
                failed = True
                raise

    if steps:
        run_in_threads(work, min(threads, steps))


def _check(page_size: int, seed: int, most: int | None = None) -> None:
    if page_size < MIN_PAGE_BYTES or page_size & (page_size - 1) or (most is not None and page_size > most):
        up_to = "" if most is None else f" and at most {most}"
        raise ValueError(f"a page size must be a power of two of at least {MIN_PAGE_BYTES}{up_to}, not {page_size}")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError("a seed must be from 0 to 2**64 - 1")


def _check_array(array: NDArray[np.uint64], name: str, *, writable: bool = False) -> None:
    if array.dtype != np.uint64 or array.ndim != 1 or not array.flags.aligned:
        raise TypeError(f"{name} must be an aligned array of uint64 with one dimension")
    if not array.flags.c_contiguous or (writable and not array.flags.writeable):
        raise ValueError(f"{name} must be contiguous{' and writable' if writable else ''}")


def _check_read(pid: int, addresses: NDArray[np.uint64], out: NDArray[np.uint64], page_size: int, seed: int) -> int:
    """Check the arguments of read_process; return the number of hashes for each page of PAGE_SIZE."""
    _check(page_size, seed, PAGE_SIZE)
    _check_array(addresses, "addresses")
    _check_array(out, "out", writable=True)
    if pid <= 0:
        raise ValueError(f"{pid} is not the id of a process")
    parts = PAGE_SIZE // page_size
    if len(out) != len(addresses) * parts:
        raise ValueError(f"{len(addresses)} pages give {parts} hashes each; out has room for {len(out)} in all")
    return parts
