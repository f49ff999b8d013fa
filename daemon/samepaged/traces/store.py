"""A directory of traces: one Parquet file a guest and scan, in `host=HOST/date=DATE/` (UTC).

A row is a distinct content: host, domain, scanned_at, hash (signed 64 bits), pages; sorted by hash as it is stored. The
file's metadata says the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import duckdb
import numpy as np

from samepaged.errors import TraceError
from samepaged.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Store", "Stored"]

FORMAT: Final = 1
KEY: Final = "samepaged"
COLUMNS: Final = {
    "host": "VARCHAR",
    "domain": "VARCHAR",
    "scanned_at": "TIMESTAMP WITH TIME ZONE",
    "hash": "BIGINT",
    "pages": "INTEGER",
}
WORDS: Final = ("host", "domain", "seed", "mode", "data")
COUNTS: Final = ("absent_pages", "swapped_pages", "zero_pages", "page_size", "hash_bits", "rows")
NAME: Final = re.compile(
    r"date=([0-9]{4}-[01][0-9]-[0-3][0-9])/.*\.([0-2][0-9][0-5][0-9][0-5][0-9]\.[0-9]{6})\.parquet"
)
# The longest name of a file, in bytes, on any file system that Linux is likely to have.
LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Stored:
    """What a trace file says of itself, and where it is; `size` in bytes. `data` is the sum of its rows, in order."""

    path: Path
    size: int
    host: str
    domain: str
    scanned_at: float
    page_size: int
    seed: str
    mode: str
    hash_bits: int
    absent_pages: int
    swapped_pages: int
    zero_pages: int
    rows: int
    data: str


class Store:
    """The traces below `root`. Raises TraceError, which names the file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, trace: Trace) -> Path:
        """Add a trace: all of its file appears at once, or nothing."""
        when = datetime.fromtimestamp(trace.scanned_at, UTC)
        directory = self.root / f"host={_safe(trace.host)}" / f"date={when:%Y-%m-%d}"
        path = directory / f"{_safe(trace.domain)}.{when:%H%M%S.%f}.parquet"
        beside = directory / f".{path.name}.{os.getpid()}"
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            try:
                _copy(trace, beside)
                with beside.open("rb") as file:
                    os.fsync(file.fileno())
                beside.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    beside.unlink()
                raise
        except (OSError, duckdb.Error) as error:
            raise TraceError(
                path, f"cannot be written ({_line(error)})", "make room, or let samepaged write there"
            ) from error
        return path

    def files(self) -> Iterator[Path]:
        """The trace files, sorted by host, date, domain and time."""
        yield from sorted(path for path in self.root.glob("host=*/date=*/*.parquet") if not path.name.startswith("."))

    def prune(self, now: float, *, age: float | None = None, most_bytes: int | None = None) -> list[Path]:
        """Remove traces older than `age` seconds, then the oldest until all take no more than `most_bytes`. By the time
        in the files' names and places: what cannot be read is pruned, too. Returns what was removed.
        """
        known = sorted((_when(path), path) for path in self.files())
        sizes = {path: path.stat().st_size for _, path in known}
        kept = sum(sizes.values())
        removed = []
        for when, path in known:
            if (age is not None and when < now - age) or (most_bytes is not None and kept > most_bytes):
                path.unlink(missing_ok=True)
                kept -= sizes[path]
                removed.append(path)
        for directory in {path.parent for path in removed}:
            with contextlib.suppress(OSError):  # others are left in it
                directory.rmdir()
                directory.parent.rmdir()
        return removed

    def look(self, path: Path) -> Stored:
        """What a file says of itself. Its rows are not read."""
        with duckdb.connect(":memory:") as connection:
            try:
                found = connection.execute("SELECT value FROM parquet_kv_metadata(?) WHERE key = ?", [str(path), KEY])
                values = [row[0] for row in found.fetchall()]
                columns = {
                    row[0]: row[1]
                    for row in connection.execute(
                        "DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning = false)", [str(path)]
                    ).fetchall()
                }
            except duckdb.Error as error:
                raise TraceError(
                    path, f"is no Parquet file ({_line(error)})", "remove it, or restore it from a copy"
                ) from error
        if len(values) != 1 or columns != COLUMNS:
            raise TraceError(path, "is no trace of samepaged", "import it, or keep other files elsewhere")
        return _stored(path, values[0])

    def read(self, path: Path) -> Trace:
        """A whole trace, checked: a file that was changed or cut gives an error, and never a wrong number."""
        stored = self.look(path)
        with duckdb.connect(":memory:") as connection:
            try:
                found = connection.execute(
                    "SELECT hash, pages FROM read_parquet(?, hive_partitioning = false)", [str(path)]
                ).fetchnumpy()
            except duckdb.Error as error:
                raise TraceError(
                    path, f"cannot be read ({_line(error)})", "remove it, or restore it from a copy"
                ) from error
        hashes, pages = np.asarray(found["hash"]), np.asarray(found["pages"])
        if hashes.dtype != np.int64 or pages.dtype != np.int32 or _data_sum(hashes, pages) != stored.data:
            raise TraceError(path, "has other rows than were written", "remove it, or restore it from a copy")
        order = np.argsort(hashes.view(np.uint64), kind="stable")
        return Trace(
            host=stored.host,
            domain=stored.domain,
            scanned_at=stored.scanned_at,
            hashes=hashes.view(np.uint64)[order],
            pages=pages[order],
            absent_pages=stored.absent_pages,
            swapped_pages=stored.swapped_pages,
            zero_pages=stored.zero_pages,
            page_size=stored.page_size,
            seed=stored.seed,
            mode=stored.mode,
            hash_bits=stored.hash_bits,
        )


def _copy(trace: Trace, path: Path) -> None:
    signed = trace.hashes.view(np.int64)
    order = np.argsort(signed, kind="stable")
    hashes, pages = signed[order], trace.pages[order]
    rows = {"hash": hashes, "pages": pages}  # noqa: F841 - DuckDB finds it by its name
    about = {
        "format": FORMAT,
        "host": trace.host,
        "domain": trace.domain,
        "scanned_at": trace.scanned_at,
        "seed": trace.seed,
        "mode": trace.mode,
        "rows": len(signed),
        "data": _data_sum(hashes, pages),
    } | {name: getattr(trace, name) for name in COUNTS if name != "rows"}
    told = _literal(json.dumps(about | {"sum": _sum(about)}))
    with duckdb.connect(":memory:", config={"threads": "1"}) as connection:
        connection.execute(
            # COPY takes no parameters for these; both are quoted.
            "COPY (SELECT $host AS host, $domain AS domain, make_timestamptz($at) AS scanned_at, hash, pages "  # noqa: S608
            f"FROM rows) TO {_literal(str(path))} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{KEY}: {told}}})",
            {"host": trace.host, "domain": trace.domain, "at": round(trace.scanned_at * 1_000_000)},
        )


def _stored(path: Path, value: bytes) -> Stored:
    about = _about(value)
    if about is None:
        raise TraceError(path, "has metadata that makes no sense", "remove it, or restore it from a copy")
    if about["format"] != FORMAT:
        raise TraceError(path, f"has format {about['format']}, which is of another samepaged", "read it with that one")
    told: dict[str, Any] = {name: about[name] for name in (*WORDS, *COUNTS, "scanned_at")}
    return Stored(path=path, size=path.stat().st_size, **told)


def _about(value: bytes) -> dict[str, Any] | None:
    """The metadata, if it is as it was written."""
    try:
        about: dict[str, Any] = json.loads(value)
        return about if about.pop("sum") == _sum(about) else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _sum(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _data_sum(hashes: NDArray[np.int64], pages: NDArray[np.int32]) -> str:
    found = hashlib.sha256(hashes.tobytes())
    found.update(pages.tobytes())
    return found.hexdigest()


def _when(path: Path) -> float:
    """When the trace was taken, by its date's directory and its name; the beginning of time where they do not tell."""
    found = NAME.fullmatch(f"{path.parent.name}/{path.name}")
    try:
        return datetime.strptime(f"{found[1]} {found[2]} +0000", "%Y-%m-%d %H%M%S.%f %z").timestamp() if found else 0.0
    except ValueError:  # no day of any month
        return 0.0


def _safe(name: str) -> str:
    """A name as a part of a path: any other name has another one."""
    quoted = quote(name, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(quoted) > LONGEST_NAME:
        quoted = f"{quoted[:120]}%~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return quoted or "%"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
