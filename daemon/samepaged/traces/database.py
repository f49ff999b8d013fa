"""DuckDB, embedded: what traces are written and read with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from samepaged.errors import SamepagedError

try:
    import duckdb
except ImportError:  # the package was installed without the extra `traces`
    duckdb = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FAILURES", "check_installed", "database", "escaped", "literal", "one_line"]

# What it raises where files cannot be read or written.
FAILURES: Final[tuple[type[Exception], ...]] = (OSError,) if duckdb is None else (OSError, duckdb.Error)


def check_installed() -> None:
    """Raises SamepagedError where DuckDB is missing."""
    if duckdb is None:
        raise SamepagedError("traces need DuckDB, which is not installed; run pip install 'samepaged[traces]'")


@contextlib.contextmanager
def database(threads: int = 1) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory, on so many threads; times are in UTC. It downloads nothing by itself."""
    check_installed()
    with duckdb.connect(
        ":memory:", config={"threads": str(threads), "autoinstall_known_extensions": "false"}
    ) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def escaped(path: str) -> str:
    """A path that DuckDB takes as it is, and not as a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def literal(text: str) -> str:
    """A string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def one_line(error: Exception) -> str:
    """What an error says, without the layout of its further lines."""
    return " ".join(str(error).split())[:200]
