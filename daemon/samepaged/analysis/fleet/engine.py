"""What a query engine does for a fleet: it opens trace files, keeps relations, and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Engine", "EngineError", "FleetTrace"]


@dataclass(frozen=True, slots=True)
class FleetTrace:
    """A trace that counts: its host's number, and what its rows are known by; `microseconds` since the Unix epoch."""

    host_number: int
    host: str
    domain: str
    microseconds: int


class EngineError(Exception):
    """The engine could not read a file, or could not answer; in its own words, on one line."""


class Engine(Protocol):
    """DuckDB or Spark. The SQL is the same for both, and so are the rows. All methods raise EngineError."""

    # How many rows of files are best worked on together.
    rows_at_once: int

    def open(self, paths: Sequence[str], guests: Sequence[FleetTrace]) -> None:
        """Make `traces` of these files, and `guests` (a guest's number is its index), as queries.py wants them."""

    def materialize(self, name: str, query: str) -> None:
        """Make a relation of what a query finds, in the place of what had that name before."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds, in any order."""
