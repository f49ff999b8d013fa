"""Reader of the hashes of traces, with read-ahead and a cache."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import numpy as np

from samepaged.traces.database import database
from samepaged.traces.parquet import fetch_hashes, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

    from samepaged.analysis.study.guests import TraceRef

    Key: TypeAlias = tuple[str, int]

__all__ = ["HashReader"]

# Size of the cache in bytes: enough to read one trace per guest of a small host once.
_CACHE_BYTES: Final = 1 << 29
# Lists of traces with more rows than this in total are not read ahead while the previous one is compared.
_AHEAD_ROWS: Final = 1 << 25
_THREADS: Final = 2


class HashReader:
    """Reads and checks traces; raises TraceError. A file with several traces is read once, as a whole, and its traces
    are stored in a temporary directory.
    """

    def __init__(self, kept: int = _CACHE_BYTES) -> None:
        self._room = kept
        self._hashes: dict[Key, NDArray[np.uint64]] = {}
        self._lock = threading.Lock()
        self._aside: dict[str, Path] = {}
        self._stack = ExitStack()
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(_THREADS, "reader")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._hashes.clear()
        self._stack.close()

    def hashes(self, ref: TraceRef) -> NDArray[np.uint64]:
        """Return the contents of a trace: uint64, ascending, unique. Do not modify the array."""
        key = ref.file.path, ref.index
        with self._lock:
            known = self._hashes.get(key)
        if known is not None:
            return known
        found = self._read(ref)
        with self._lock:
            if key not in self._hashes and found.nbytes <= self._room:
                self._hashes[key] = found
                self._room -= found.nbytes
        return found

    def traces(self, refs: Sequence[TraceRef]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int32]]]:
        """Yield the contents of each of `refs`, as `hashes` does, and the number of pages with each. Two are read at a
        time.
        """
        for start in range(0, len(refs), _THREADS):
            yield from self._pool.map(self._trace, refs[start : start + _THREADS])

    def hash_lists(self, lists: Iterable[Sequence[TraceRef]]) -> Iterator[list[NDArray[np.uint64]]]:
        """Yield the hashes of each of `lists`; the next list is read while the caller uses one."""
        following = iter(lists)
        wanted = next(following, None)
        coming = None
        while wanted is not None:
            if coming is None:
                coming = self._pool.map(self.hashes, wanted)
            found = list(coming)
            wanted = next(following, None)
            coming = None
            if wanted is not None and sum(ref.rows for ref in wanted) <= _AHEAD_ROWS:
                coming = self._pool.map(self.hashes, wanted)
            yield found

    def _trace(self, ref: TraceRef) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        if len(ref.file.traces) == 1:
            (whole,) = read(ref.file.path)
            return whole.hashes, whole.pages
        directory = self._spill_file(ref)
        return np.load(directory / f"{ref.index}.hashes.npy"), np.load(directory / f"{ref.index}.pages.npy")

    def _read(self, ref: TraceRef) -> NDArray[np.uint64]:
        if len(ref.file.traces) == 1:
            return fetch_hashes(self._connection(), ref.file)
        found: NDArray[np.uint64] = np.load(self._spill_file(ref) / f"{ref.index}.hashes.npy")
        return found

    def _connection(self) -> DuckDBPyConnection:
        """Return this thread's connection: opening DuckDB takes as long as reading a small trace."""
        known: DuckDBPyConnection | None = getattr(self._local, "connection", None)
        if known is None:
            with self._lock:
                known = self._local.connection = self._stack.enter_context(database())
        return known

    def _spill_file(self, ref: TraceRef) -> Path:
        with self._lock:
            directory = self._aside.get(ref.file.path)
            if directory is None:
                directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="samepaged-study-")))
                for index, trace in enumerate(read(ref.file.path)):
                    np.save(directory / f"{index}.hashes.npy", trace.hashes)
                    np.save(directory / f"{index}.pages.npy", trace.pages)
                self._aside[ref.file.path] = directory
            return directory
