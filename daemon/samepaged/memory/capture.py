"""One scan of one guest's memory: a reader and a consistency mode, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from samepaged.errors import GuestError, Reason
from samepaged.memory import smaps
from samepaged.memory.dump_reader import DumpReader
from samepaged.memory.layout import locate
from samepaged.memory.pagemap import PAGE, PRESENT, SWAPPED, Pagemap
from samepaged.memory.process_reader import ProcessReader
from samepaged.sharing.digest import PageDigest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hasher
    from samepaged.memory.layout import RamMapping

__all__ = ["Capture", "Hashing", "Source", "capture"]


class Pause(Protocol):
    """Holds the guest suspended while its context is entered."""

    def __call__(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A guest's memory as this package sees it: the pid of its QEMU, its RAM blocks in bytes, how to hold it suspended,
    and how to have it dumped into a path (a FIFO in `directory`).
    """

    pid: int
    blocks: tuple[int, ...]
    pause: Pause
    dump: Callable[[Path], None]
    directory: Path


@dataclass(frozen=True, slots=True)
class Hashing:
    """How pages are hashed, on how many threads, and when to stop reading."""

    hasher: Hasher
    seed: int
    threads: int
    stop: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Capture:
    """What a scan found and how: the mode and the reader used, bytes read, and why it was not what was asked for."""

    digest: PageDigest
    mode: str
    reader: str
    bytes_read: int
    fallback_reason: str | None = None


def capture(source: Source, hashing: Hashing, *, reader: str) -> Capture:
    """Scan a guest, held suspended for all of it. `reader` is `process`, `dump`, or `auto`: the process reader, or the
    dump where the guest's RAM cannot be found in its process. Raises GuestError.
    """
    if reader == "dump":
        return _by_dump(source, hashing, None)
    try:
        mappings = locate(smaps.read(source.pid), source.blocks)
    except GuestError as error:
        if reader != "auto" or error.reason is not Reason.LAYOUT:
            raise
        return _by_dump(source, hashing, str(error))
    return _by_process(source, hashing, mappings)


def _by_process(source: Source, hashing: Hashing, mappings: Sequence[RamMapping]) -> Capture:
    with ProcessReader(
        source.pid,
        mappings,
        hasher=hashing.hasher,
        seed=hashing.seed,
        threads=hashing.threads,
        stop=hashing.stop,
    ) as reader:
        with source.pause():
            pages = reader.read()
        return Capture(PageDigest(pages, PAGE), "snapshot", "process", reader.bytes_read)


def _by_dump(source: Source, hashing: Hashing, fallback_reason: str | None) -> Capture:
    reader = DumpReader(
        source.dump,
        source.directory,
        source.blocks,
        hasher=hashing.hasher,
        seed=hashing.seed,
        stop=hashing.stop,
    )
    with source.pause():
        pages = reader.read(_absent(source))
    return Capture(PageDigest(pages, PAGE), "snapshot", "dump", reader.bytes_read, fallback_reason)


def _absent(source: Source) -> NDArray[np.bool_] | None:
    """Which pages are absent, where this may be asked: the dump reader needs no right to the process, and does
    without.
    """
    try:
        mappings = locate(smaps.read(source.pid), source.blocks)
        if any(mapping.has_file for mapping in mappings):
            return None
        with Pagemap(source.pid) as pagemap:
            entries = [pagemap.entries(mapping.start, mapping.size) for mapping in mappings]
    except GuestError:
        return None
    return (np.concatenate(entries) & (PRESENT | SWAPPED)) == 0
