"""A directory of traces: one Parquet file a guest and scan, in `host=HOST/date=DATE/` (UTC).

A row is a distinct content: host, domain, scanned_at, hash (signed 64 bits), pages; sorted by hash as it is stored. The
file's metadata says the rest (metadata.py). Beside a trace there may be another file, which says whose its pages were
(attribution_file.py) and goes with it.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from samepaged.errors import TraceError
from samepaged.traces import parquet
from samepaged.traces.attribution_file import SUFFIX, attribution_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from samepaged.traces.trace import Trace, TraceInfo

__all__ = ["TraceStore"]

NAME: Final = re.compile(
    r"date=([0-9]{4}-[01][0-9]-[0-3][0-9])/.*\.([0-2][0-9][0-5][0-9][0-5][0-9]\.[0-9]{6})\.parquet"
)
# Seconds after which nobody is still writing a file.
STALE_SECONDS: Final = 3600
# The longest name of a file, in bytes, on any file system that Linux is likely to have.
MAX_NAME_BYTES: Final = 200


class TraceStore:
    """The traces below `root`. Raises TraceError, which names the file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, about: TraceInfo) -> Path:
        """Where this trace is, or would be."""
        return self.path_of(about.host, about.domain, about.scanned_at)

    def path_of(self, host: str, domain: str, scanned_at: float) -> Path:
        """Where the trace of this guest and moment (seconds of the Unix epoch) is, or would be."""
        try:
            when = datetime.fromtimestamp(scanned_at, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise TraceError(self.root, f"invalid trace time {scanned_at}", "give seconds of the Unix epoch") from error
        directory = self.root / f"host={_escape_name(host)}" / f"date={when:%Y-%m-%d}"
        return directory / f"{_escape_name(domain)}.{when:%H%M%S.%f}.parquet"

    def write(self, trace: Trace) -> Path:
        """Add a trace: all of its file appears at once, or nothing. One of the same guest and moment is an error."""
        path = self.path(trace.info)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            if path.exists():
                raise TraceError(path, "exists already", "give the trace another time, or remove the existing file")
        except OSError as error:
            raise parquet.write_error(path, error) from error
        try:
            parquet.write(path, [trace])
        except TraceError:
            if path.parent.exists():
                raise
            path.parent.mkdir(mode=0o750, parents=True)  # it was empty, and pruned in this moment
            parquet.write(path, [trace])
        return path

    def files(self, host: str | None = None) -> Iterator[Path]:
        """The trace files, of all hosts or of one, sorted by host, date, domain and time: by their names, so that what
        others keep here is none of them.
        """
        for path in sorted(self.root.glob(f"{_pattern(host)}/date=*/*.parquet")):
            if not path.name.startswith(".") and _scan_time(path) is not None and path.is_file():
                yield path

    def size(self, host: str | None = None) -> int:
        """Bytes of all of them, or of those of one host, and of their owners."""
        return sum(size for _, size in _sizes(self.files(host)))

    def prune(
        self, now: float, *, max_age: float | None = None, max_bytes: int | None = None, host: str | None = None
    ) -> list[Path]:
        """Remove traces (of `host` alone, if given) older than `max_age` seconds, then the oldest until all take no
        more than `max_bytes`, with their owners. By the time in the files' names: what cannot be read is pruned, too.
        Returns the traces removed. Where a file cannot be removed, the others are, and then it is a TraceError.
        """
        sizes = dict(_sizes(self.files(host)))
        kept = sum(sizes.values())
        removed = []
        failure: TraceError | None = None
        for when, path in sorted((_scan_time(path) or 0.0, path) for path in sizes):
            if (max_age is not None and when < now - max_age) or (max_bytes is not None and kept > max_bytes):
                try:
                    # First, so that no names outlive their trace.
                    attribution_path(path).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                except OSError as error:
                    why = f"cannot be removed ({error.strerror})"
                    failure = failure or TraceError(path, why, "give samepaged write permission for the directory")
                    continue
                kept -= sizes[path]
                removed.append(path)
        for directory in {path.parent for path in removed}:
            with contextlib.suppress(OSError):  # others are left in it
                directory.rmdir()
                directory.parent.rmdir()
        self._tidy(now, host)
        if failure is not None:
            raise failure
        return removed

    def _tidy(self, now: float, host: str | None) -> None:
        """Remove what a writer that was killed has left, and owners (of `host` alone, if given) without a trace."""
        left = [*self.root.glob("host=*/date=*/.*.parquet.*"), *self.root.glob(f"host=*/date=*/.*{SUFFIX}.*")]
        for path in self.root.glob(f"{_pattern(host)}/date=*/*{SUFFIX}"):
            trace = path.with_name(f"{path.name.removesuffix(SUFFIX)}.parquet")
            if _scan_time(trace) is not None and not trace.exists():
                left.append(path)
        for path in left:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < now - STALE_SECONDS:
                    path.unlink()


def _pattern(host: str | None) -> str:
    return "host=*" if host is None else f"host={_escape_name(host)}"


def _sizes(paths: Iterator[Path]) -> Iterator[tuple[Path, int]]:
    """Of each trace, with its owners."""
    for path in paths:
        size = 0
        with contextlib.suppress(OSError):  # it has none
            size = attribution_path(path).stat().st_size
        with contextlib.suppress(OSError):  # another has just pruned it
            yield path, path.stat().st_size + size


def _scan_time(path: Path) -> float | None:
    """When the trace was taken, by its date's directory and its name; None where they are not a trace's."""
    found = NAME.fullmatch(f"{path.parent.name}/{path.name}")
    if found is None:
        return None
    try:
        return datetime.strptime(f"{found[1]} {found[2]} +0000", "%Y-%m-%d %H%M%S.%f %z").timestamp()
    except ValueError:  # no day of any month
        return None


def _escape_name(name: str) -> str:
    """A name as a part of a path: any other name has another one."""
    quoted = quote(name, safe="", errors="surrogatepass").replace(".", "%2E")
    if quoted.startswith("_"):  # Spark passes over such files
        quoted = f"%5F{quoted[1:]}"
    if len(quoted) > MAX_NAME_BYTES:
        quoted = f"{quoted[:120]}%~{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return quoted or "%"
