"""Whose traces they are: the traces of a survey, guest by guest."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samepaged.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.traces.metadata import TraceFile
    from samepaged.traces.trace import About

__all__ = ["Guest", "TraceRef", "guests_of"]


@dataclass(frozen=True, slots=True)
class TraceRef:
    """One trace: its file, and which of the file's traces it is."""

    file: TraceFile
    index: int

    @property
    def about(self) -> About:
        """What its file says of it."""
        return self.file.traces[self.index]

    @property
    def rows(self) -> int:
        """How many rows it has: its distinct contents, or those of the sample."""
        totals = self.file.totals[self.index][self.file.sample.bit_length() - 1]
        return 0 if totals is None else totals.rows


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest and its traces, by time. `name` is the domain's, with its host's before it where several guests have a
    domain of that name.
    """

    name: str
    host: str
    domain: str
    traces: tuple[TraceRef, ...]


def guests_of(files: Sequence[TraceFile]) -> tuple[Guest, ...]:
    """The guests that `files` have traces of, by name.

    A guest is a domain of a host, also where it was defined anew under another UUID, as many are at each boot. One that
    went to another host is still the same, where its name and its UUID say so. TraceError where there is no trace.
    """
    traces: defaultdict[tuple[str, str], list[TraceRef]] = defaultdict(list)
    for file in files:
        for index, about in enumerate(file.traces):
            traces[about.host, about.domain].append(TraceRef(file, index))
    if not traces:
        raise TraceError(files[0].path, "has no trace in it", "record some (traces.enabled), or import them")
    merged = _merged(traces)
    homes = Counter(refs[-1].about.domain for refs in merged)
    guests = []
    for refs in merged:
        last = refs[-1].about
        name = last.domain if homes[last.domain] == 1 else f"{last.host}/{last.domain}"
        guests.append(Guest(name, last.host, last.domain, tuple(refs)))
    return tuple(sorted(guests, key=lambda guest: (guest.name, guest.host)))


def _merged(traces: dict[tuple[str, str], list[TraceRef]]) -> list[list[TraceRef]]:
    """One list a guest, by time."""
    found: list[tuple[set[tuple[str, str]], list[TraceRef]]] = []  # with the domain and UUIDs of each
    for (_, domain), refs in sorted(traces.items()):
        uuids = {(domain, ref.about.uuid) for ref in refs if ref.about.uuid is not None}
        same = [one for one in found if one[0] & uuids]
        found = [one for one in found if not one[0] & uuids]
        found.append((uuids.union(*(one[0] for one in same)), [ref for one in same for ref in one[1]] + refs))
    return [sorted(refs, key=lambda ref: (ref.about.scanned_at, ref.about.host)) for _, refs in found]
