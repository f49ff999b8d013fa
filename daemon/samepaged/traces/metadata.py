"""Metadata of a trace file: JSON in Parquet's key-value metadata, with checksums that detect damage.

For each trace it has two checksums over all rows, for readers of the whole file. `Totals` cover the samples, so that a
query engine can check them without reading more than it needs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from samepaged.errors import TraceError
from samepaged.traces.trace import MAX_SAMPLE_HALVINGS, PageSizeCounts, TraceInfo, sample_threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from samepaged.traces.trace import Trace

__all__ = ["KEY", "Totals", "TraceFile", "column_sum", "format_metadata", "parse_metadata"]

KEY: Final = "samepaged"
# The largest prime below 2^32.
PRIME: Final = 4_294_967_291
# Upper limits of counts, sizes and times in a trace.
MAX_COUNT: Final = 2**53
MAX_TIME_SECONDS: Final = 253_402_300_799  # the end of the year 9999
FORMAT: Final = 1
HASH_BITS: Final = (32, 64)


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals over the rows of one trace: number of rows, sum of their pages, XOR of their hashes (signed), and the sum
    of their hashes' remainders modulo `PRIME`, with the sign as in C and SQL. A bit that flips in an even number of
    hashes changes the sum, but not the XOR.
    """

    rows: int
    pages: int
    xor: int
    remainders: int


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file of `size` bytes with traces in the order of host, domain and time, and 1/`sample` of their contents.

    `totals[trace][k]` are the totals of the trace's rows in the lowest 1/2**k of the hashes; None if the file has
    fewer. `sums` has two checksums for each trace, of its hashes and of their pages, in ascending signed order.
    """

    path: str
    size: int
    sample: int
    traces: tuple[TraceInfo, ...]
    totals: tuple[tuple[Totals | None, ...], ...]
    sums: tuple[tuple[str, str], ...]

    @property
    def rows(self) -> int:
        """Number of rows of all traces."""
        at = self.sample.bit_length() - 1
        return sum(found.rows for one in self.totals if (found := one[at]) is not None)


def column_sum(column: NDArray[np.int64] | NDArray[np.int32]) -> str:
    """Return the checksum of a column, with the rows in ascending order."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(column).data)


def format_metadata(columns: Sequence[tuple[Trace, NDArray[np.int64], NDArray[np.int32]]], sample: int) -> str:
    """Return the metadata of a file with these traces, each with its rows in ascending signed order."""
    told = {
        "format": FORMAT,
        "sample": sample,
        "traces": [
            asdict(trace.info)
            | {
                "sums": (column_sum(hashes), column_sum(pages)),
                "totals": [
                    None if 1 << halvings < sample else _totals(hashes, pages, 1 << halvings)
                    for halvings in range(MAX_SAMPLE_HALVINGS + 1)
                ],
            }
            for trace, hashes, pages in columns
        ],
    }
    return json.dumps(told | {"sum": _sum(told)})


def parse_metadata(path: str, size: int, value: bytes) -> TraceFile:
    """Parse the output of `format_metadata`. Raises TraceError if it is damaged."""
    try:
        told: dict[str, Any] = json.loads(value)
        intact = told.pop("sum") == _sum(told)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise TraceError(path, "has invalid metadata", "remove it, or restore it from a copy")
    if told.get("format") != FORMAT:
        raise TraceError(
            path, f"has format {told.get('format')} of another samepaged version", "read it with that version"
        )
    try:
        file = _file(path, size, told)
        _check(file)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TraceError(
            path, "has inconsistent metadata", "remove it, or create it again with this samepaged"
        ) from error
    return file


def _file(path: str, size: int, told: Mapping[str, Any]) -> TraceFile:
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


def _check(file: TraceFile) -> None:
    """Raise ValueError or TypeError if a value is impossible. Checksums detect damage; this check rejects files of
    other programs.
    """
    sample_threshold(file.sample)
    if not file.traces:
        raise ValueError("no trace")
    for about, totals in zip(file.traces, file.totals, strict=True):
        words = (about.host, about.domain, about.seed, about.mode, "" if about.uuid is None else about.uuid)
        if not all(isinstance(word, str) for word in words) or not 0 <= float(about.scanned_at) <= MAX_TIME_SECONDS:
            raise TypeError("names and times")
        sizes = [value for one in about.by_page_size for value in astuple(one)]
        counts = (about.absent_pages, about.swapped_pages, about.zero_pages, about.hashed_pages, about.distinct_pages)
        if not all(
            type(value) is int and 0 <= value <= MAX_COUNT
            for value in (*counts, *sizes, 0 if about.host_memory is None else about.host_memory)
        ):
            raise ValueError("counts")
        if about.page_size < 1 or about.hash_bits not in HASH_BITS or len(totals) != MAX_SAMPLE_HALVINGS + 1:
            raise ValueError("page size, hash bits, totals")
        known = totals[file.sample.bit_length() - 1]
        if known is None or not all(type(value) is int for value in astuple(known)):
            raise ValueError("totals")
        if file.sample == 1 and (known.rows, known.pages) != (about.distinct_pages, about.hashed_pages):
            raise ValueError("rows")


def _about(told: Mapping[str, Any]) -> TraceInfo:
    fields = {name: told[name] for name in TraceInfo.__dataclass_fields__}
    fields["by_page_size"] = tuple(PageSizeCounts(**counts) for counts in told["by_page_size"])
    return TraceInfo(**fields)


def _totals(hashes: NDArray[np.int64], pages: NDArray[np.int32], sample: int) -> tuple[int, int, int, int]:
    most = sample_threshold(sample)
    end = len(hashes) if most is None else int(np.searchsorted(hashes, np.int64(most)))
    xor = int(np.bitwise_xor.reduce(hashes[:end], initial=0))
    return end, int(pages[:end].sum(dtype=np.int64)), xor, int(np.fmod(hashes[:end], PRIME).sum(dtype=np.int64))


def _sum(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
