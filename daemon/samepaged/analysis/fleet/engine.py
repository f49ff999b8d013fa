"""Interface of a query engine for fleets: it opens trace files, materializes relations and runs queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Engine", "EngineError", "FleetTrace"]


@dataclass(frozen=True, slots=True)
class FleetTrace:
    """An evaluated trace: its host's number and the key of its rows; `microseconds` since the Unix epoch."""

    host_number: int
    host: str
    domain: str
    microseconds: int


class EngineError(Exception):
    """The engine could not read a file or run a query. The message is the engine's, on one line."""


class Engine(Protocol):
    """DuckDB or Spark. The SQL is the same for both, and so are the rows. All methods raise EngineError."""

    # Number of file rows to process together.
    rows_at_once: int

    def open(self, paths: Sequence[str], guests: Sequence[FleetTrace]) -> None:
        """Create the relations `traces` (these files) and `guests` (the index is the number) for queries.py."""

    def materialize(self, name: str, query: str) -> None:
        """Create a relation from a query, replacing a previous one of that name."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, in any order."""
