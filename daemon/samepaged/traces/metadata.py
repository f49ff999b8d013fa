"""What a trace file says of itself: JSON in Parquet's key-value metadata, with sums by which damage shows.

Of each trace it has two sums of all its rows, for whoever reads them all, and `Totals` for the samples that a query
engine can check while it reads no more than it needs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from samepaged.errors import TraceError
from samepaged.traces.trace import MOST_HALVINGS, About, PageSizeCounts, threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from samepaged.traces.trace import Trace

__all__ = ["KEY", "Totals", "TraceFile", "described", "parse", "row_sums"]

KEY: Final = "samepaged"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Totals:
    """What the rows of one trace come to: how many, the sum of their pages, and their hashes xor-ed (signed)."""

    rows: int
    pages: int
    xor: int


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file, of `size` bytes: its traces in the order of host, domain and time, and 1/`sample` of their contents.
    `totals[trace][k]` are those of the trace's rows of the lowest 1/2**k hashes; None where the file has fewer.
    `sums` has two checksums of each trace's rows, of its hashes and of their pages, in ascending signed order.
    """

    path: str
    size: int
    sample: int
    traces: tuple[About, ...]
    totals: tuple[tuple[Totals | None, ...], ...]
    sums: tuple[tuple[str, str], ...]

    @property
    def rows(self) -> int:
        """Rows of all its traces."""
        at = self.sample.bit_length() - 1
        return sum(found.rows for one in self.totals if (found := one[at]) is not None)


def row_sums(hashes: NDArray[np.int64], pages: NDArray[np.int32]) -> tuple[str, str]:
    """Checksums of the two columns, of rows in ascending order."""
    first, second = (xxhash.xxh3_128_hexdigest(np.ascontiguousarray(column).data) for column in (hashes, pages))
    return first, second


def described(columns: Sequence[tuple[Trace, NDArray[np.int64], NDArray[np.int32]]], sample: int) -> str:
    """The metadata of a file with these traces, each with its rows in ascending signed order."""
    told = {
        "format": FORMAT,
        "sample": sample,
        "traces": [
            asdict(trace.about)
            | {
                "sums": row_sums(hashes, pages),
                "totals": [
                    None if 1 << halvings < sample else _totals(hashes, pages, 1 << halvings)
                    for halvings in range(MOST_HALVINGS + 1)
                ],
            }
            for trace, hashes, pages in columns
        ],
    }
    return json.dumps(told | {"sum": _sum(told)})


def parse(path: str, size: int, value: bytes) -> TraceFile:
    """The reverse. Raises TraceError where it is not as it was written."""
    try:
        told: dict[str, Any] = json.loads(value)
        intact = told.pop("sum") == _sum(told)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise TraceError(path, "has metadata that makes no sense", "remove it, or restore it from a copy")
    if told.get("format") != FORMAT:
        raise TraceError(
            path, f"has format {told.get('format')}, which is of another samepaged", "read it with that one"
        )
    return TraceFile(
        path=path,
        size=size,
        sample=told["sample"],
        traces=tuple(_about(one) for one in told["traces"]),
        totals=tuple(
            tuple(None if part is None else Totals(*part) for part in one["totals"]) for one in told["traces"]
        ),
        sums=tuple((one["sums"][0], one["sums"][1]) for one in told["traces"]),
    )


def _about(told: Mapping[str, Any]) -> About:
    fields = {name: told[name] for name in About.__dataclass_fields__}
    fields["by_page_size"] = tuple(PageSizeCounts(**counts) for counts in told["by_page_size"])
    return About(**fields)


def _totals(hashes: NDArray[np.int64], pages: NDArray[np.int32], sample: int) -> tuple[int, int, int]:
    most = threshold(sample)
    end = len(hashes) if most is None else int(np.searchsorted(hashes, np.int64(most)))
    return end, int(pages[:end].sum(dtype=np.int64)), int(np.bitwise_xor.reduce(hashes[:end], initial=0))


def _sum(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
