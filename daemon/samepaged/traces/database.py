"""Embedded DuckDB, which reads and writes traces."""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from samepaged.errors import SamepagedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

__all__ = ["check_installed", "database", "duckdb_errors", "escape_pattern", "is_installed", "one_line", "sql_literal"]


def is_installed() -> bool:
    """Return whether DuckDB is installed. It is loaded when a database is opened, because it takes 30 MiB."""
    return find_spec("duckdb") is not None


def check_installed() -> None:
    """Raise SamepagedError if DuckDB is missing."""
    if not is_installed():
        raise SamepagedError("traces need DuckDB, which is not installed", "run pip install 'samepaged[traces]'")


def duckdb_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions for files that cannot be read or written; with DuckDB's own once it is loaded."""
    duckdb = sys.modules.get("duckdb")
    return (OSError,) if duckdb is None else (OSError, duckdb.Error)


@contextlib.contextmanager
def database(threads: int = 1) -> Iterator[DuckDBPyConnection]:
    """Open an in-memory database on `threads` threads, with times in UTC. It never downloads extensions by itself."""
    check_installed()
    import duckdb  # noqa: PLC0415 - see `is_installed`

    with duckdb.connect(
        ":memory:", config={"threads": str(threads), "autoinstall_known_extensions": "false"}
    ) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def escape_pattern(path: str) -> str:
    """Escape a path so that DuckDB does not treat it as a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def sql_literal(text: str) -> str:
    """Quote a string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def one_line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())[:200]
