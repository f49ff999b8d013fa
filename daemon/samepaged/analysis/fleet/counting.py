"""Counting of the contents that hosts have in common, from traces, with a query engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.analysis.fleet import queries
from samepaged.analysis.fleet.engine import EngineError, FleetTrace
from samepaged.analysis.fleet.result import CommonContent, Fleet, Host, HostPair
from samepaged.errors import SamepagedError, TraceError, UsageError
from samepaged.traces import parquet
from samepaged.traces.metadata import Totals
from samepaged.traces.survey import newest_traces, survey
from samepaged.traces.trace import MAX_SAMPLE_HALVINGS, sample_threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from samepaged.analysis.fleet.engine import Engine
    from samepaged.traces.metadata import TraceFile
    from samepaged.traces.trace import TraceInfo

__all__ = ["analyse_fleet"]

MAX_COMMON_CONTENTS: Final = 10


@dataclass(frozen=True, slots=True)
class FleetTraces:
    """The evaluated traces with their files, and the sorted names of their hosts."""

    traces: tuple[tuple[TraceFile, TraceInfo], ...]
    hosts: tuple[str, ...]
    sample: int

    @classmethod
    def of(cls, files: Sequence[TraceFile], sample: int) -> FleetTraces:
        """Select each guest's newest trace. Raises UsageError for an invalid sample, or one that cannot be taken."""
        try:
            sample_threshold(sample)
        except ValueError as error:
            raise UsageError(
                f"--sample {sample}: not a power of two up to {1 << MAX_SAMPLE_HALVINGS}", "try 256"
            ) from error
        traces = tuple(newest_traces(files))
        sample = max(sample, *(file.sample for file, _ in traces))
        if sample > 1 and traces[0][1].hash_bits < 64:  # noqa: PLR2004 - bits of a whole hash
            raise UsageError(
                f"--sample {sample}: hashes of {traces[0][1].hash_bits} bits are not spread over the hash space",
                "leave --sample out",
            )
        return cls(traces, tuple(sorted({about.host for _, about in traces})), sample)

    def engine_rows(self) -> list[FleetTrace]:
        """Return the traces in the engine's form. Raises TraceError if two have the same key."""
        numbers = {host: number for number, host in enumerate(self.hosts)}
        found: dict[FleetTrace, str] = {}
        for file, about in self.traces:
            one = FleetTrace(numbers[about.host], about.host, about.domain, parquet.microseconds(about.scanned_at))
            if one in found:
                raise TraceError(file.path, f"has the same guest at the same time as {found[one]}", "keep one of them")
            found[one] = file.path
        return list(found)

    def totals(self) -> Iterator[tuple[TraceFile, Totals]]:
        """Yield the totals of each trace's rows from its metadata."""
        halvings = self.sample.bit_length() - 1
        for file, about in self.traces:
            known = file.totals[file.traces.index(about)][halvings]
            if known is None:
                raise TraceError(file.path, f"does not contain a sample of 1/{self.sample}", "use another --sample")
            yield file, known

    def paths(self) -> list[str]:
        """Return the files without duplicates."""
        return list(dict.fromkeys(file.path for file, _ in self.traces))


class Tally:
    """Sums over the parts of the hash space."""

    def __init__(self, guests: int, hosts: int) -> None:
        self.rows = [0] * guests
        self.pages = [0] * guests
        self.hashes = [0] * guests
        self.remainders = [0] * guests
        self.held = [0] * hosts
        self.alone = [0] * hosts
        self.shared = 0
        self.widespread: list[tuple[int, int, int, int]] = []
        self._hosts = hosts
        self._pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, engine: Engine) -> None:
        """Count a part of the hash space, which the engine has as `numbered`."""
        for guest, rows, pages, hashes, remainders in engine.rows(queries.GUESTS):
            self.rows[guest] += rows
            self.pages[guest] += pages
            self.hashes[guest] ^= hashes
            self.remainders[guest] += remainders
        for name, query in queries.STEPS.items():
            engine.materialize(name, query)
        for host, held, alone in engine.rows(queries.HOSTS):
            self.held[host] += held
            self.alone[host] += alone
        self.shared += engine.rows(queries.SHARED)[0][0]
        # (hash, hosts, guests, pages): among contents with equal numbers of guests, the hash decides, regardless of
        # their part.
        found = [(hash_, hosts, guests, pages) for hash_, hosts, guests, pages in engine.rows(queries.COMMON_CONTENTS)]
        self.widespread = sorted([*self.widespread, *found], key=lambda one: (-one[2], one[0]))[:MAX_COMMON_CONTENTS]
        pairs = np.array(engine.rows(queries.PAIRS), dtype=np.int64).reshape(-1, 3)
        self._pairs.append((pairs[:, 0] * self._hosts + pairs[:, 1], pairs[:, 2]))

    def totals(self, guest: int) -> Totals:
        """Return the totals of the rows that were read for a guest."""
        return Totals(self.rows[guest], self.pages[guest], self.hashes[guest], self.remainders[guest])

    def pairs(self) -> Iterator[tuple[int, int, int]]:
        """Yield (host, other host, number of shared contents), largest first."""
        keys = np.concatenate([key for key, _ in self._pairs])
        counts = np.concatenate([count for _, count in self._pairs])
        each, places = np.unique(keys, return_inverse=True)
        shared = np.zeros(len(each), dtype=np.int64)
        np.add.at(shared, places, counts)
        for at in np.lexsort((each, -shared)).tolist():
            first, second = divmod(int(each[at]), self._hosts)
            yield first, second, int(shared[at])


def analyse_fleet(
    path: Path | str, open_engine: Callable[[], AbstractContextManager[Engine]], *, sample: int = 1
) -> Fleet:
    """Analyse the sharing between hosts from the traces at `path` (as in `survey`), with each guest's newest trace.

    With a `sample` of N only contents in the lowest 1/N of the hashes are counted; if files are smaller samples, their
    sample applies. Raises TraceError, UsageError, or SamepagedError if the engine fails.
    """
    guests = FleetTraces.of(survey(path, mixed_samples=True), sample)
    counted = guests.engine_rows()
    totals = list(guests.totals())
    tally = Tally(len(counted), len(guests.hosts))
    try:
        with open_engine() as engine:
            engine.open(guests.paths(), counted)
            for first, end in _parts(guests.sample, sum(known.rows for _, known in totals), engine.rows_at_once):
                engine.materialize("numbered", queries.numbered_rows(first, end))
                tally.add(engine)
    except EngineError as error:
        for file_path in guests.paths():
            parquet.read(file_path)  # raises TraceError with the file's name if a file is the cause
        raise SamepagedError(
            f"the query engine failed: {error}", "run the command again, or use a larger --sample"
        ) from error
    for guest, (file, known) in enumerate(totals):
        if tally.totals(guest) != known:
            raise TraceError(file.path, "has rows that do not match its checksums", parquet.DAMAGED)
    return _result(guests, tally)


def _parts(sample: int, rows: int, at_once: int) -> Iterator[tuple[int | None, int | None]]:
    """Yield bounds that divide the sample's hashes into equal parts of about `at_once` rows."""
    count = max(1, math.ceil(rows / at_once))
    span = (1 << 64) // sample
    inner = [span * part // count - (1 << 63) for part in range(1, count)]
    yield from pairwise([None, *inner, sample_threshold(sample)])


def _result(guests: FleetTraces, tally: Tally) -> Fleet:
    by_host: dict[str, list[TraceInfo]] = {name: [] for name in guests.hosts}
    for _, about in guests.traces:
        by_host[about.host].append(about)
    times = [about.scanned_at for _, about in guests.traces]
    return Fleet(
        page_size=guests.traces[0][1].page_size,
        sample=guests.sample,
        oldest=min(times),
        newest=max(times),
        hashed_pages=sum(about.hashed_pages for _, about in guests.traces),
        contents=sum(tally.alone) + tally.shared,
        hosts=tuple(
            Host(
                name=name,
                guests=len(abouts),
                memory_pages=sum(about.memory_pages for about in abouts),
                self_sharing_pages=sum(about.duplicate_pages for about in abouts),
                summed_distinct_pages=sum(about.distinct_pages for about in abouts),
                sampled_contents=tally.held[number],
                exclusive_contents=tally.alone[number],
            )
            for number, (name, abouts) in enumerate(by_host.items())
        ),
        pairs=tuple(
            HostPair((guests.hosts[first], guests.hosts[second]), shared) for first, second, shared in tally.pairs()
        ),
        common_contents=tuple(CommonContent(*counts) for _, *counts in tally.widespread),
    )
