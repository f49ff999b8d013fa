"""Reading, writing and checking of trace files as Parquet, with DuckDB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.atomic_write import whole_file
from samepaged.errors import TraceError
from samepaged.traces.database import database, duckdb_errors, escape_pattern, one_line, sql_literal
from samepaged.traces.metadata import KEY, TraceFile, column_sum, format_metadata, parse_metadata
from samepaged.traces.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

__all__ = ["fetch_hashes", "read", "read_hashes", "read_metadata", "write", "write_error"]

# Each column's name, and its type in parquet_schema().
SCHEMA: Final = [
    ("host", "BYTE_ARRAY", "UTF8"),
    ("domain", "BYTE_ARRAY", "UTF8"),
    ("scanned_at", "INT64", "TIMESTAMP_MICROS"),
    ("hash", "INT64", "INT_64"),
    ("pages", "INT32", "INT_32"),
]
DAMAGED: Final = "remove it, or restore it from a copy"


def write(path: Path, traces: Sequence[Trace]) -> None:
    """Write a file of these traces atomically. All must be samples of the same size. Raises TraceError."""
    try:
        with whole_file(path, 0o600) as beside:  # hashes reveal the guests that hold a known page
            _copy(traces, beside)
    except duckdb_errors() as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: Exception) -> TraceError:
    """Return the error for a file that could not be written."""
    return TraceError(
        path, f"cannot be written ({one_line(error)})", "free disk space, or give samepaged write permission"
    )


def read_metadata(paths: Sequence[str]) -> list[TraceFile]:
    """Return the metadata of files, in their order; rows are not read. Raises TraceError for the first invalid file."""
    with database() as connection:
        return _read_metadata(connection, list(paths))


def read(path: str | Path) -> tuple[Trace, ...]:
    """Read and check the traces of a file. A changed or truncated file raises TraceError and never yields a wrong
    number.
    """
    with database() as connection:
        (file,) = _read_metadata(connection, [str(path)])
        rows = _fetch(
            connection,
            path,
            # A row that belongs to none of the file's traces gets a separate number, which none of the checksums
            # covers.
            "SELECT coalesce(number, -1) AS number, hash, pages FROM read_parquet($path, hive_partitioning = false) "
            "LEFT JOIN (SELECT generate_subscripts($hosts, 1) - 1 AS number, unnest($hosts) AS host, "
            "unnest($domains) AS domain, make_timestamptz(unnest($times)) AS scanned_at) "
            "USING (host, domain, scanned_at) ORDER BY number, hash",
            {
                "path": escape_pattern(str(path)),
                "hosts": [about.host for about in file.traces],
                "domains": [about.domain for about in file.traces],
                "times": [microseconds(about.scanned_at) for about in file.traces],
            },
        )
    cuts = np.searchsorted(rows["number"], np.arange(-1, len(file.traces) + 1))
    if cuts[1] != 0:
        raise TraceError(path, "has rows that do not match its checksums", DAMAGED)
    found = []
    for number, about in enumerate(file.traces):
        hashes, pages = (rows[name][cuts[number + 1] : cuts[number + 2]] for name in ("hash", "pages"))
        if (
            hashes.dtype != np.int64
            or pages.dtype != np.int32
            or (column_sum(hashes), column_sum(pages)) != file.sums[number]
        ):
            raise TraceError(path, "has rows that do not match its checksums", DAMAGED)
        found.append(Trace(about, unsigned(hashes), _rotated(pages, int(np.searchsorted(hashes, 0))), file.sample))
    return tuple(found)


def read_hashes(file: TraceFile) -> NDArray[np.uint64]:
    """Read and check the hashes of a file with one trace (uint64, ascending); other columns are not read."""
    with database() as connection:
        return fetch_hashes(connection, file)


def fetch_hashes(connection: DuckDBPyConnection, file: TraceFile) -> NDArray[np.uint64]:
    """Like read_hashes, on an open connection."""
    if len(file.traces) != 1:
        raise TraceError(file.path, f"has {len(file.traces)} traces", "give files with one trace each")
    rows = _fetch(
        connection,
        file.path,
        "SELECT hash FROM read_parquet($path, hive_partitioning = false)",
        {"path": escape_pattern(file.path)},
    )
    hashes = rows["hash"]
    if hashes.dtype != np.int64 or column_sum(hashes) != file.sums[0][0]:
        raise TraceError(file.path, "has rows that do not match its checksums", DAMAGED)
    return unsigned(hashes)


def unsigned(hashes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Reorder hashes from ascending signed to ascending unsigned order."""
    return _rotated(hashes, int(np.searchsorted(hashes, 0))).view(np.uint64)


def _rotated(values: NDArray[Any], first: int) -> NDArray[Any]:
    return np.concatenate([values[first:], values[:first]])


def microseconds(seconds: float) -> int:
    """Return a time in microseconds, as stored in Parquet."""
    return round(seconds * 1_000_000)


def _read_metadata(connection: DuckDBPyConnection, paths: list[str]) -> list[TraceFile]:
    if not paths:
        return []
    names = [escape_pattern(path) for path in paths]
    try:
        told = connection.execute(
            "SELECT file_name, value FROM parquet_kv_metadata($names) WHERE key = $key", {"names": names, "key": KEY}
        ).fetchall()
        rows = connection.execute("SELECT file_name, num_rows FROM parquet_file_metadata($names)", {"names": names})
        counts = dict(rows.fetchall())
        columns: dict[str, list[tuple[str, str, str | None]]] = {}
        for path, *column in connection.execute(
            "SELECT file_name, name, type, converted_type FROM parquet_schema($names) WHERE type IS NOT NULL",
            {"names": names},
        ).fetchall():
            columns.setdefault(path, []).append((column[0], column[1], column[2]))
    except duckdb_errors() as error:
        if len(paths) > 1:  # the failing file is not known yet
            middle = len(paths) // 2
            return _read_metadata(connection, paths[:middle]) + _read_metadata(connection, paths[middle:])
        if "://" not in paths[0] and not Path(paths[0]).exists():
            raise _missing_error(paths[0]) from error
        raise TraceError(paths[0], f"is not a Parquet file ({one_line(error)})", DAMAGED) from error
    values: dict[str, list[bytes]] = {}
    for path, value in told:
        values.setdefault(path, []).append(value)
    found = []
    for path in paths:
        if len(values.get(path, [])) != 1 or columns.get(path) != SCHEMA:
            raise TraceError(path, "is not a samepaged trace", "import it, or keep other files elsewhere")
        file = parse_metadata(path, _size(path), values[path][0])
        if counts.get(path) != file.rows:
            raise TraceError(path, "has rows that do not match its checksums", DAMAGED)
        found.append(file)
    return found


def _size(path: str) -> int:
    try:
        return 0 if "://" in path else Path(path).stat().st_size
    except OSError as error:
        raise _missing_error(path) from error


def _missing_error(path: str) -> TraceError:
    return TraceError(path, "has been deleted", "run the command again, or raise traces.max_age")


def _fetch(
    connection: DuckDBPyConnection, path: str | Path, query: str, parameters: dict[str, Any]
) -> dict[str, NDArray[Any]]:
    try:
        found = connection.execute(query, parameters).fetchnumpy()
    except duckdb_errors() as error:
        raise TraceError(path, f"cannot be read ({one_line(error)})", DAMAGED) from error
    return {name: np.asarray(column) for name, column in found.items()}


def _copy(traces: Sequence[Trace], path: Path) -> None:
    columns = []
    for trace in traces:
        first = int(np.searchsorted(trace.hashes, np.uint64(1 << 63)))
        columns.append((trace, _rotated(trace.hashes.view(np.int64), first), _rotated(trace.pages, first)))
    told = format_metadata(columns, traces[0].sample)
    if len(columns) == 1:  # the rows are sorted already; avoid a copy of the same length
        rows = {"hash": columns[0][1], "pages": columns[0][2]}
        number, order = "0", ""
    else:
        rows = {
            "number": np.repeat(np.arange(len(columns)), [len(hashes) for _, hashes, _ in columns]),
            "hash": np.concatenate([hashes for _, hashes, _ in columns]),
            "pages": np.concatenate([pages for _, _, pages in columns]),
        }
        number, order = "number", "ORDER BY hash, number"
    names = {
        "hosts": [trace.info.host for trace in traces],
        "domains": [trace.info.domain for trace in traces],
        "times": [microseconds(trace.info.scanned_at) for trace in traces],
    }
    with database() as connection:
        connection.register("rows", rows)
        connection.execute(
            # COPY does not accept parameters here; both are quoted.
            f"COPY (SELECT $hosts[{number} + 1] AS host, $domains[{number} + 1] AS domain, "  # noqa: S608
            f"make_timestamptz($times[{number} + 1]) AS scanned_at, hash, pages FROM rows {order}) "
            f"TO {sql_literal(str(path))} "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{KEY}: {sql_literal(told)}}})",
            names,
        )
