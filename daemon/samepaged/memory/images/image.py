"""Page hashes of a memory image file: raw, ELF core, or LiME. The image is read in chunks, into one locked buffer."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.errors import TraceError
from samepaged.memory.hashing import Hashing, Interrupted, SubpageDigests
from samepaged.memory.images import elf_core, lime
from samepaged.memory.images.span import Span, damaged, whole_pages
from samepaged.memory.locked_buffer import locked_buffer
from samepaged.sharing.digest import SWAPPED, ZERO, PageDigest
from samepaged.sharing.page_sizes import coarsen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hasher

__all__ = ["Image", "ImageDigests", "hash_image", "image_format", "open_file", "open_image"]

CHUNK_PAGES: Final = 512
# The most pages that a trace can count (`pages` is int32), 8 TiB; and the memory for each page while a trace is made:
# its digest, sorted once.
MAX_PAGES: Final = 2**31 - 1
DIGEST_BYTES_PER_PAGE: Final = 48
# A core file with less than this part of the memory (1/16) is useless, and a forged one may declare any size.
MIN_FILE_FRACTION_DIVISOR: Final = 16

MEMORY_ONLY: Final = "dump the guest with `virsh dump --memory-only`"
AS_ELF: Final = "dump the guest with `virsh dump --memory-only --format elf`"
# Magic numbers of files with guest memory in unsupported formats: the problem, and the remedy.
NOT_READ: Final = {
    b"LibvirtQemudSave": ("is a guest saved by libvirt (`virsh save`)", MEMORY_ONLY),
    b"LibvirtQemudPart": ("is a guest saved by libvirt (`virsh save`), in part", MEMORY_ONLY),
    b"QEVM": ("is a QEMU migration stream (`virsh dump` writes it)", MEMORY_ONLY),
    b"QFI\xfb": ("is a qcow2 disk image", MEMORY_ONLY),
    b"KDUMP   ": ("is a kdump-compressed dump", AS_ELF),
    b"DISKDUMP": ("is a diskdump", AS_ELF),
    b"makedumpfile\0": ("is a flattened kdump-compressed dump", AS_ELF),
    b"PAGEDUMP": ("is a Windows crash dump", AS_ELF),
    b"PAGEDU64": ("is a Windows crash dump", AS_ELF),
    b"AVML": ("is compressed by AVML", "convert it with `avml-convert`"),
    b"LiME": ("is a LiME image of a big-endian machine, which is not supported", "run LiME with format=padded"),
    b"PAR1": ("is a Parquet file", "copy it into the trace directory if it is a trace: traces do not need an import"),
    b"\x1f\x8b\x08": ("is compressed by gzip", "decompress it with `gunzip`"),
    b"\xfd7zXZ\0": ("is compressed by xz", "decompress it with `unxz`"),
    b"\x28\xb5\x2f\xfd": ("is compressed by zstd", "decompress it with `unzstd`"),
    b"BZh": ("is compressed by bzip2", "decompress it with `bunzip2`"),
    b"\x04\x22\x4d\x18": ("is compressed by lz4", "decompress it with `unlz4`"),
    b"\x89LZO\0\r\n\x1a\n": ("is compressed by lzop", "decompress it with `lzop -d`"),
    b"PK\x03\x04": ("is a zip archive", "unpack it"),
}


@dataclass(frozen=True, slots=True)
class Image:
    """A guest's memory in the open file `descriptor`: spans of whole pages, ascending. `devices` is the number of bytes
    of device memory left out, `partial` the number of bytes in partial pages left out.
    """

    path: Path
    descriptor: int
    spans: tuple[Span, ...]
    devices: int
    partial: int

    @property
    def pages(self) -> int:
        """Number of pages of the memory."""
        return sum(span.size for span in self.spans) // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class ImageDigests:
    """The digest of the pages, and the digests of the same memory in other page sizes, in the requested order."""

    digest: PageDigest
    others: tuple[PageDigest, ...]


@contextmanager
def open_file(path: Path) -> Iterator[tuple[int, int]]:
    """Open the regular file; yield its descriptor and its size in bytes. Raises TraceError."""
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise TraceError(path, f"cannot be opened ({why})", "name a file that you may read") from error
    try:
        if not os.path.isfile(f"/proc/self/fd/{descriptor}"):  # noqa: PTH113 - a descriptor has no other path
            raise TraceError(path, "is not a regular file", "copy its content into one")
        yield descriptor, os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise TraceError(path, f"cannot be read ({error.strerror})", "copy it again from an intact original") from error
    finally:
        os.close(descriptor)


def image_format(path: Path, head: bytes) -> str | None:
    """The format of a file that begins with `head`: "elf", "lime", or None if unknown. Raises TraceError for known but
    unsupported formats.
    """
    for magic, (problem, remedy) in NOT_READ.items():
        if head.startswith(magic):
            raise TraceError(path, problem, remedy)
    if head.startswith(b"\x7fELF"):
        return "elf"
    return "lime" if head.startswith(lime.MAGIC) else None


def open_image(path: Path, descriptor: int, size: int, form: str, memory: int | None = None) -> Image:
    """The image in an open file of `size` bytes; `form` is "raw", "elf" or "lime". `memory` is the size of the guest's
    RAM in bytes, which distinguishes a PC's RAM from device memory. Raises TraceError.
    """
    devices: tuple[Span, ...] = ()
    if form == "elf":
        ram = elf_core.ram(descriptor, size, path, memory)
        spans, devices = ram.spans, ram.devices
    elif form == "lime":
        spans = lime.ranges(descriptor, size, path)
    elif size % PAGE_SIZE:
        raise damaged(path, f"has {size} bytes, which is not a multiple of the page size ({PAGE_SIZE} bytes)")
    else:
        spans = (Span(0, size, 0),)
    whole, partial = whole_pages(path, (*spans, *devices), size)
    if devices:  # checked together with the RAM, then left out
        whole, partial = whole_pages(path, spans, size)
    found = Image(path, descriptor, whole, sum(span.size for span in devices), partial)
    if memory is not None and found.pages * PAGE_SIZE != memory:
        raise TraceError(
            path,
            f"has {found.pages * PAGE_SIZE} bytes of RAM, not {memory}",
            "set --memory to the domain's memory, or omit it",
        )
    _check_size(found)
    return found


def _check_size(found: Image) -> None:
    if not found.pages:
        raise damaged(found.path, "does not contain a page of memory")
    held = sum(span.size for span in found.spans if span.offset is not None)
    if held * MIN_FILE_FRACTION_DIVISOR < found.pages * PAGE_SIZE:
        raise damaged(found.path, f"contains only {held} of {found.pages * PAGE_SIZE} bytes of memory")
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if found.pages > MAX_PAGES or found.pages * DIGEST_BYTES_PER_PAGE > physical:
        raise TraceError(
            found.path,
            f"declares {found.pages} pages: the hashes do not fit into this machine's memory",
            "import it on a machine with more memory if this number is right",
        )


def hash_image(
    found: Image, hasher: Hasher, seed: int, sizes: Sequence[int] = (), stop: Callable[[], bool] = lambda: False
) -> ImageDigests:
    """Hash the pages: 8 bytes each, and 8 for each page of each of `sizes` (bytes; powers of two). Pages in holes of
    the file are zero pages, as a read returns zeros there. Raises TraceError, and Interrupted if `stop` returns true.
    """
    try:
        pages = np.empty(found.pages, dtype=np.uint64)
        subpages = SubpageDigests(found.pages, [size for size in sizes if size < PAGE_SIZE], hasher, seed)
        reader = _Reader(found, Hashing(hasher, seed, threads=1, stop=stop), subpages)
        first = 0
        for span in found.spans:
            reader.read(span, first, pages[first : first + span.size // PAGE_SIZE])
            first += span.size // PAGE_SIZE
        subpages.settle(pages)
        digest = PageDigest(pages, PAGE_SIZE)
        others = [
            PageDigest(subpages.parts[size], size) if size < PAGE_SIZE else _coarser(digest, found.spans, size)
            for size in sizes
        ]
    except MemoryError as error:
        raise TraceError(
            found.path,
            f"has {found.pages} pages: out of memory for their hashes",
            "import it on a machine with more memory",
        ) from error
    return ImageDigests(digest, tuple(others))


class _Reader:
    """Hashes the pages of spans, in every size."""

    def __init__(self, found: Image, hashing: Hashing, subpages: SubpageDigests) -> None:
        self._found = found
        self._hashing = hashing
        self._subpages = subpages
        self._buffer = locked_buffer(min(CHUNK_PAGES, found.pages) * PAGE_SIZE)

    def read(self, span: Span, first: int, out: NDArray[np.uint64]) -> None:
        """Hash the pages of a span; `first` is the number of its first page in the memory."""
        if span.offset is None:
            out[:] = SWAPPED
            return
        out[:] = ZERO
        for start, end in _data(self._found.descriptor, span.offset, span.size):
            for at in range(start, end, CHUNK_PAGES):
                if self._hashing.stop():
                    raise Interrupted
                to = min(at + CHUNK_PAGES, end)
                window = self._buffer[: (to - at) * PAGE_SIZE]
                self._fill(window, span.offset + at * PAGE_SIZE)
                self._hashing.hasher.hash_buffer(window, out[at:to], PAGE_SIZE, self._hashing.seed)
                if self._subpages.parts:
                    self._subpages.hash(window, np.arange(first + at, first + to))
        # A part that was truncated meanwhile would look like a hole.
        if os.fstat(self._found.descriptor).st_size < span.offset + span.size:
            raise damaged(self._found.path, "was truncated while it was read")

    def _fill(self, window: memoryview, offset: int) -> None:
        filled = 0
        while filled < len(window):
            count = os.preadv(self._found.descriptor, [window[filled:]], offset + filled)
            if count == 0:
                raise damaged(self._found.path, f"was truncated while it was read, to {offset + filled} bytes")
            filled += count


def _data(descriptor: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges (start, end) of pages in a part of the file that are not completely in its holes (lseek(2), SEEK_DATA)."""
    at, behind = offset, offset + size
    done = 0
    while at < behind:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
            at = os.lseek(descriptor, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        first = max(done, (min(data, behind) - offset) // PAGE_SIZE)
        done = -(-(min(at, behind) - offset) // PAGE_SIZE)
        if first < done:
            yield first, done


def _coarser(digest: PageDigest, spans: Sequence[Span], size: int) -> PageDigest:
    """The same memory in larger pages, each aligned to its size, and not across a gap: the whole larger pages in each
    run of addresses.
    """
    ratio = size // PAGE_SIZE
    parts: list[NDArray[np.uint64]] = []
    for address, first, count in _runs(spans):
        skipped = -(address // PAGE_SIZE) % ratio
        run = digest.pages[first + skipped : max(first + count, first + skipped)]
        parts.append(coarsen(PageDigest(run, PAGE_SIZE), size).pages)
    return PageDigest(np.concatenate(parts), size)


def _runs(spans: Sequence[Span]) -> Iterator[tuple[int, int, int]]:
    """Runs of adjacent spans: the address, the number of the first page in the digest, and the number of pages."""
    first = begin = 0
    for number, span in enumerate(spans):
        first += span.size // PAGE_SIZE
        if number + 1 == len(spans) or spans[number + 1].address != span.end:
            yield span.end - (first - begin) * PAGE_SIZE, begin, first - begin
            begin = first
