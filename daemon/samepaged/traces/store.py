"""Directory of traces: one Parquet file per guest and scan, in `host=HOST/date=DATE/` (UTC).

Each row is a distinct content: host, domain, scanned_at, hash (signed 64 bits), pages; sorted by hash as stored. The
file's metadata (metadata.py) has the rest. A trace may have a second file with its page attribution
(attribution_file.py), which is deleted with it.
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
# Seconds after which a temporary file cannot have a live writer any more.
STALE_SECONDS: Final = 3600
# The longest file name, in bytes, on common Linux file systems.
MAX_NAME_BYTES: Final = 200


class TraceStore:
    """The traces below `root`. Raises TraceError, which names the file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, about: TraceInfo) -> Path:
        """Return the path of this trace, existing or not."""
        return self.path_of(about.host, about.domain, about.scanned_at)

    def path_of(self, host: str, domain: str, scanned_at: float) -> Path:
        """Return the path of the trace of this guest and time (seconds of the Unix epoch), existing or not."""
        try:
            when = datetime.fromtimestamp(scanned_at, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise TraceError(self.root, f"invalid trace time {scanned_at}", "give seconds of the Unix epoch") from error
        directory = self.root / f"host={_escape_name(host)}" / f"date={when:%Y-%m-%d}"
        return directory / f"{_escape_name(domain)}.{when:%H%M%S.%f}.parquet"

    def write(self, trace: Trace) -> Path:
        """Add a trace atomically. Raises TraceError if a trace of the same guest and time exists."""
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
            path.parent.mkdir(mode=0o750, parents=True)  # the empty directory was pruned concurrently
            parquet.write(path, [trace])
        return path

    def files(self, host: str | None = None) -> Iterator[Path]:
        """Yield the trace files of all hosts or of one, sorted by host, date, domain and time.

        Trace files are recognised by their names, so other files in the directory are ignored.
        """
        for path in sorted(self.root.glob(f"{_pattern(host)}/date=*/*.parquet")):
            if not path.name.startswith(".") and _scan_time(path) is not None and path.is_file():
                yield path

    def size(self, host: str | None = None) -> int:
        """Return the size in bytes of all traces, or of one host's, with their owners."""
        return sum(size for _, size in _sizes(self.files(host)))

    def prune(
        self, now: float, *, max_age: float | None = None, max_bytes: int | None = None, host: str | None = None
    ) -> list[Path]:
        """Remove traces (only of `host`, if given) older than `max_age` seconds, then the oldest until the total is at
        most `max_bytes`, with their owners. Returns the removed traces.

        The time in the file name counts, so unreadable files are pruned, too. If a file cannot be removed, the others
        are removed first, and then TraceError is raised.
        """
        sizes = dict(_sizes(self.files(host)))
        kept = sum(sizes.values())
        removed = []
        failure: TraceError | None = None
        for when, path in sorted((_scan_time(path) or 0.0, path) for path in sizes):
            if (max_age is not None and when < now - max_age) or (max_bytes is not None and kept > max_bytes):
                try:
                    # Owners first, so that names do not outlive their trace.
                    attribution_path(path).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                except OSError as error:
                    why = f"cannot be removed ({error.strerror})"
                    failure = failure or TraceError(path, why, "give samepaged write permission for the directory")
                    continue
                kept -= sizes[path]
                removed.append(path)
        for directory in {path.parent for path in removed}:
            with contextlib.suppress(OSError):  # other files remain in it
                directory.rmdir()
                directory.parent.rmdir()
        self._tidy(now, host)
        if failure is not None:
            raise failure
        return removed

    def _tidy(self, now: float, host: str | None) -> None:
        """Remove files of killed writers, and owners without a trace (only of `host`, if given)."""
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
    """Yield each trace with its size, owners included."""
    for path in paths:
        size = 0
        with contextlib.suppress(OSError):  # no owners file
            size = attribution_path(path).stat().st_size
        with contextlib.suppress(OSError):  # pruned concurrently
            yield path, path.stat().st_size + size


def _scan_time(path: Path) -> float | None:
    """Return the scan time from the date directory and the file name; None if they are not a trace's."""
    found = NAME.fullmatch(f"{path.parent.name}/{path.name}")
    if found is None:
        return None
    try:
        return datetime.strptime(f"{found[1]} {found[2]} +0000", "%Y-%m-%d %H%M%S.%f %z").timestamp()
    except ValueError:  # not a valid date
        return None


def _escape_name(name: str) -> str:
    """Encode a name as one path component. Different names have different encodings."""
    quoted = quote(name, safe="", errors="surrogatepass").replace(".", "%2E")
    if quoted.startswith("_"):  # Spark ignores such files
        quoted = f"%5F{quoted[1:]}"
    if len(quoted) > MAX_NAME_BYTES:
        quoted = f"{quoted[:120]}%~{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return quoted or "%"
