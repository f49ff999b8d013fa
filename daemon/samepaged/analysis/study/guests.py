"""Whose traces they are: the traces of a survey, guest by guest."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samepaged.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.traces.metadata import TraceFile
    from samepaged.traces.trace import TraceInfo

__all__ = ["Guest", "TraceRef", "guests_of"]


@dataclass(frozen=True, slots=True)
class TraceRef:
    """One trace: its file, and which of the file's traces it is."""

    file: TraceFile
    index: int

    @property
    def info(self) -> TraceInfo:
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
    domain of that name, and more where that is not enough. `host` is where it was last.
    """

    name: str
    host: str
    domain: str
    traces: tuple[TraceRef, ...]


def guests_of(files: Sequence[TraceFile]) -> tuple[Guest, ...]:
    """The guests that `files` have traces of, by name; no two have the same name.

    A guest is a domain of a host, also where it was defined anew under another UUID, as many are at each boot. One that
    went to another host is still the same, where its name and its UUID say so; what else was there under its name is
    then another guest. TraceError where there is no trace.
    """
    traces: defaultdict[tuple[str, str], list[TraceRef]] = defaultdict(list)
    for file in files:
        for index, about in enumerate(file.traces):
            traces[about.host, about.domain].append(TraceRef(file, index))
    if not traces:
        raise TraceError(files[0].path, "has no traces", "record some (traces.enabled), or import them")
    apart = _split_by_guest(traces)
    guests = [
        Guest(name, refs[-1].info.host, refs[-1].info.domain, tuple(refs))
        for name, refs in zip(_names([refs[-1].info for refs in apart]), apart, strict=True)
    ]
    return tuple(sorted(guests, key=lambda guest: guest.name))


def _split_by_guest(traces: dict[tuple[str, str], list[TraceRef]]) -> list[list[TraceRef]]:
    """One list a guest, by time."""
    hosts: defaultdict[tuple[str, str | None], set[str]] = defaultdict(set)
    for (host, domain), refs in traces.items():
        for ref in refs:
            hosts[domain, ref.info.uuid].add(host)
    found: defaultdict[tuple[str, str, str], list[TraceRef]] = defaultdict(list)
    for (host, domain), refs in sorted(traces.items()):
        uuids = {ref.info.uuid for ref in refs} - {None}
        for ref in refs:
            # A trace that has no UUID is of the only one that is known.
            uuid = next(iter(uuids)) if len(uuids) == 1 else ref.info.uuid
            moved = uuid is not None and len(hosts[domain, uuid]) > 1
            found["" if moved else host, domain, uuid if moved and uuid is not None else ""].append(ref)
    return [sorted(refs, key=lambda ref: (ref.info.scanned_at, ref.info.host)) for refs in found.values()]


def _names(guests: Sequence[TraceInfo]) -> list[str]:
    """A name each: as short as tells them apart."""
    longer = [
        (
            one.domain,
            f"{one.host}/{one.domain}",
            f"{one.host}/{one.domain} ({(one.uuid or '')[:8]})",
            f"{one.host}/{one.domain} #{number}",
        )
        for number, one in enumerate(guests, 1)
    ]
    lengths = [0] * len(guests)
    while True:
        same: defaultdict[str, list[int]] = defaultdict(list)
        for at, names in enumerate(longer):
            same[names[lengths[at]]].append(at)
        if len(same) == len(guests):
            return list(same)
        for among in same.values():
            if len(among) > 1:
                # A composed name stays before a domain that is really called so.
                shortest = min(lengths[at] for at in among)
                for at in among:
                    lengths[at] += lengths[at] == shortest
