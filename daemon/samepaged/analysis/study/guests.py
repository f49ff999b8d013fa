"""Assignment of the traces of a survey to guests."""

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
    """One trace: its file, and its index in the file."""

    file: TraceFile
    index: int

    @property
    def info(self) -> TraceInfo:
        """The trace's metadata."""
        return self.file.traces[self.index]

    @property
    def rows(self) -> int:
        """Number of rows: distinct contents, or those in the sample."""
        totals = self.file.totals[self.index][self.file.sample.bit_length() - 1]
        return 0 if totals is None else totals.rows


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest and its traces, sorted by time.

    `name` is the domain's name, prefixed with the host if several guests have this name, and extended further if it is
    still ambiguous. `host` is the guest's last host.
    """

    name: str
    host: str
    domain: str
    traces: tuple[TraceRef, ...]


def guests_of(files: Sequence[TraceFile]) -> tuple[Guest, ...]:
    """Return the guests with traces in `files`, sorted by name; names are unique.

    A guest is a domain on a host, even if it was defined again under another UUID, as many are at each boot. A migrated
    guest is the same guest if its name and UUID match; other traces under its name on either host then belong to
    another guest. Raises TraceError if there are no traces.
    """
    traces: defaultdict[tuple[str, str], list[TraceRef]] = defaultdict(list)
    for file in files:
        for index, about in enumerate(file.traces):
            traces[about.host, about.domain].append(TraceRef(file, index))
    if not traces:
        raise TraceError(files[0].path, "contains no traces", "record some (traces.enabled), or import them")
    apart = _split_by_guest(traces)
    guests = [
        Guest(name, refs[-1].info.host, refs[-1].info.domain, tuple(refs))
        for name, refs in zip(_names([refs[-1].info for refs in apart]), apart, strict=True)
    ]
    return tuple(sorted(guests, key=lambda guest: guest.name))


def _split_by_guest(traces: dict[tuple[str, str], list[TraceRef]]) -> list[list[TraceRef]]:
    """Return one list of traces per guest, sorted by time."""
    hosts: defaultdict[tuple[str, str | None], set[str]] = defaultdict(set)
    for (host, domain), refs in traces.items():
        for ref in refs:
            hosts[domain, ref.info.uuid].add(host)
    found: defaultdict[tuple[str, str, str], list[TraceRef]] = defaultdict(list)
    for (host, domain), refs in sorted(traces.items()):
        uuids = {ref.info.uuid for ref in refs} - {None}
        for ref in refs:
            # A trace without a UUID belongs to the only known UUID.
            uuid = next(iter(uuids)) if len(uuids) == 1 else ref.info.uuid
            moved = uuid is not None and len(hosts[domain, uuid]) > 1
            found["" if moved else host, domain, uuid if moved and uuid is not None else ""].append(ref)
    return [sorted(refs, key=lambda ref: (ref.info.scanned_at, ref.info.host)) for refs in found.values()]


def _names(guests: Sequence[TraceInfo]) -> list[str]:
    """Return a unique name for each guest, as short as possible."""
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
                # A composed name takes precedence over a domain with the same literal name.
                shortest = min(lengths[at] for at in among)
                for at in among:
                    lengths[at] += lengths[at] == shortest
