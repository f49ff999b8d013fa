"""Fleet queries on DuckDB, within this process."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Any, Final

from samepaged.analysis.fleet.engine import EngineError
from samepaged.traces.database import database, duckdb_errors, escape_pattern, one_line, sql_literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duckdb import DuckDBPyConnection

    from samepaged.analysis.fleet.engine import FleetTrace

__all__ = ["DuckDbEngine", "duckdb_engine"]

# 64 Mi rows take 3 to 4 GiB; each further part reads all files again.
ROWS_AT_ONCE: Final = 1 << 26


class DuckDbEngine:
    """An `Engine` on a connection."""

    def __init__(self, connection: DuckDBPyConnection, rows_at_once: int = ROWS_AT_ONCE) -> None:
        self._connection = connection
        self.rows_at_once = rows_at_once

    def open(self, paths: Sequence[str], guests: Sequence[FleetTrace]) -> None:
        """Create the view `traces` and the table `guests`."""
        files = ", ".join(sql_literal(escape_pattern(path)) for path in paths)
        self._run(
            "CREATE OR REPLACE TEMP VIEW traces AS SELECT host, domain, scanned_at, hash, pages "  # noqa: S608 - quoted
            f"FROM read_parquet([{files}], hive_partitioning = false)"
        )
        self._run(
            "CREATE OR REPLACE TEMP TABLE guests AS "
            "SELECT CAST(generate_subscripts($hosts, 1) - 1 AS INTEGER) AS guest, "
            "CAST(unnest($numbers) AS INTEGER) AS host_number, unnest($hosts) AS host, unnest($domains) AS domain, "
            "make_timestamptz(unnest($times)) AS scanned_at",
            {
                "numbers": [guest.host_number for guest in guests],
                "hosts": [guest.host for guest in guests],
                "domains": [guest.domain for guest in guests],
                "times": [guest.microseconds for guest in guests],
            },
        )

    def materialize(self, name: str, query: str) -> None:
        """Create a table from a query."""
        # Drop the old table first, because it may be large.
        self._run(f"DROP TABLE IF EXISTS {name}")
        self._run(f"CREATE TEMP TABLE {name} AS {query}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._run(query).fetchall()

    def _run(self, query: str, parameters: dict[str, Any] | None = None) -> DuckDBPyConnection:
        try:
            return self._connection.execute(query, parameters)
        except duckdb_errors() as error:
            raise EngineError(one_line(error)) from error


@contextlib.contextmanager
def duckdb_engine() -> Iterator[DuckDbEngine]:
    """Open DuckDB on all processors of this process. Data that exceed the memory go to a temporary directory."""
    processors = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="samepaged-") as directory, database(threads=processors) as connection:
        connection.execute(f"SET temp_directory = {sql_literal(directory)}")
        connection.execute("SET preserve_insertion_order = false")
        yield DuckDbEngine(connection)
