"""Comparison of two sets of traces, as in the paper for address space layout randomisation (section 6.2, Fig. 14).

The paper started one machine four times without it and four times with it, and used the four traces of each as those of
four machines started from one image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.analysis.study.formatting import named
from samepaged.analysis.study.groups import inter_sharing
from samepaged.analysis.study.guests import guests_of
from samepaged.analysis.study.hash_reader import HashReader
from samepaged.analysis.study.min_avg_max import MinAvgMax
from samepaged.analysis.study.sampling import all_groups, number_of_groups, sample_groups
from samepaged.analysis.study.table import Table
from samepaged.errors import TraceError
from samepaged.escape import printable
from samepaged.formatting import size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from samepaged.analysis.study.guests import Guest, TraceRef
    from samepaged.analysis.study.pairs import TraceHashes
    from samepaged.traces.metadata import TraceFile

__all__ = ["KINDS", "Comparison", "SetSharing", "compare"]

KINDS: Final = ("total", "self", "inter")
# Maximum number of groups in each set, and of traces of one guest that are used as separate guests.
_GROUPS: Final = 60
_MAX_MEMBERS: Final = 8
# With fewer members, a group without one member is not a group.
_MIN_TO_LEAVE_ONE_OUT: Final = 3


@dataclass(frozen=True, slots=True)
class SetSharing:
    """One set: `groups` of its `possible` groups of `size` traces, and their sharing in pages, by `KINDS`."""

    path: str
    domains: tuple[str, ...]
    traces: int
    groups: int
    possible: int
    sharing: dict[str, MinAvgMax]


@dataclass(frozen=True, slots=True)
class _Members:
    by_set: tuple[list[Sequence[TraceRef]], list[Sequence[TraceRef]]]
    left_out: tuple[str, ...]
    of_traces: bool
    in_common: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """The sharing of groups of `size` members in two sets.

    A member is a guest, with one of its traces; or, if one guest of each set is compared, each of its traces
    (`of_traces`), as if each belonged to a separate guest.

    `reduction`, by `KINDS`, is the reduction of the average from the first set to the second, in per cent (negative: an
    increase), with minimum and maximum over pairs of one group from each; None if the first set has no such sharing. If
    each set has only one group, minimum and maximum are over groups without one member (`less_one`). `left_out` are
    guests in only one of the sets. If the sets have no guest in common (not `in_common`), all guests of each are
    compared.
    """

    page_size: int
    sample: int
    seed: int
    size: int
    of_traces: bool
    less_one: bool
    in_common: bool
    left_out: tuple[str, ...]
    sets: tuple[SetSharing, SetSharing]
    reduction: dict[str, MinAvgMax | None]

    def document(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "schema": 1,
            "page_size": self.page_size,
            "sample": self.sample,
            "seed": self.seed,
            "members": "traces" if self.of_traces else "domains",
            "group_size": self.size,
            "spread_over": "groups without one member" if self.less_one else "groups",
            "in_common": self.in_common,
            "left_out": list(self.left_out),
            "sets": [
                {
                    "directory": one.path,
                    "domains": list(one.domains),
                    "traces": one.traces,
                    "groups": one.groups,
                    "possible_groups": one.possible,
                }
                | {f"{kind}_sharing_pages": one.sharing[kind].document() for kind in KINDS}
                for one in self.sets
            ],
            "reduction_percent": {
                kind: None if found is None else found.document() for kind, found in self.reduction.items()
            },
        }

    def table(self) -> Table:
        """Return the text table."""
        first, second = self.sets
        members = "traces of one guest" if self.of_traces else "guests"
        spread = "groups without one member" if self.less_one else "one group of each set"
        looked_at = f"{first.groups} of {first.possible:,} and {second.groups} of {second.possible:,}"
        notes = [
            f"Groups of {self.size} {members}: {looked_at}, averages; the reductions' spread is over pairs of {spread}."
        ]
        if not self.in_common:
            notes.append(
                "The sets do not have a common guest: all guests of each set are compared, regardless of their names."
            )
        if self.left_out:
            notes.append(f"Left out, because only one set has them: {', '.join(map(named, self.left_out))}.")
        if self.sample > 1:
            notes.append(f"Inter-VM sharing is estimated from 1/{self.sample} of the contents.")
        return Table(
            key="fig14-reduction",
            figure="Figure 14",
            title=f"reduction of sharing from {printable(first.path)} to {printable(second.path)}",
            headings=("sharing", "first", "second", "reduction", "min", "max"),
            rows=tuple(self._row(kind) for kind in KINDS),
            note=" ".join(notes),
        )

    def _row(self, kind: str) -> tuple[str, ...]:
        found = self.reduction[kind]
        told = ("-",) * 3 if found is None else tuple(f"{one:.1f}%" for one in (found.avg, found.min, found.max))
        return ("inter-VM" if kind == "inter" else kind, *(self._amount(one, kind) for one in self.sets), *told)

    def _amount(self, one: SetSharing, kind: str) -> str:
        return size(one.sharing[kind].avg * self.page_size)


def compare(
    paths: tuple[str, str], files: tuple[Sequence[TraceFile], Sequence[TraceFile]], *, seed: int = 0
) -> Comparison:
    """Compare two surveys, of the directories `paths`. Raises TraceError if they are of different kinds, or if one has
    a single guest and the other has several guests without it.
    """
    sets = guests_of(files[0]), guests_of(files[1])
    traces = [guests[0].traces[0] for guests in sets]
    kinds = [(ref.info.page_size, ref.info.hash_bits, ref.file.sample) for ref in traces]
    if kinds[0] != kinds[1]:
        what = "page size {}, hash bits {} and sample {}"
        raise TraceError(
            paths[1],
            f"has traces of {what.format(*kinds[1])}, {paths[0]} of {what.format(*kinds[0])}",
            "compare traces of the same kind",
        )
    chosen = _members(paths, sets)
    members = chosen.by_set
    size = min(len(one) for one in members)
    if chosen.of_traces:
        size = min(size, _MAX_MEMBERS)
    less: list[list[dict[str, int]]] = []
    with HashReader() as reader:
        # The same draws: if the sets are alike, groups of the same guests are compared.
        found = [_groups(one, size, reader, np.random.default_rng(seed)) for one in members]
        less_one = size >= _MIN_TO_LEAVE_ONE_OUT and all(len(groups) == 1 for groups in found)
        if less_one:
            less = [_groups(one, size - 1, reader, np.random.default_rng(seed)) for one in members]
    told = [
        SetSharing(
            path=place,
            domains=tuple(guest.name for guest in guests),
            traces=sum(len(guest.traces) for guest in guests),
            groups=len(groups),
            possible=number_of_groups([len(traces) for traces in one], size),
            sharing={kind: MinAvgMax.of(group[kind] for group in groups) for kind in KINDS},
        )
        for place, guests, groups, one in zip(paths, sets, found, members, strict=True)
    ]
    return Comparison(
        page_size=kinds[0][0],
        sample=kinds[0][2],
        seed=seed,
        size=size,
        of_traces=chosen.of_traces,
        less_one=less_one,
        in_common=chosen.in_common,
        left_out=chosen.left_out,
        sets=(told[0], told[1]),
        reduction={kind: _reduction(kind, found, less or found) for kind in KINDS},
    )


def _members(places: tuple[str, str], sets: tuple[tuple[Guest, ...], tuple[Guest, ...]]) -> _Members:
    """Return the members of groups in each set: guests, with the traces of each."""
    pairs = _common_guests(*sets)
    if not pairs and 1 in (len(sets[0]), len(sets[1])) and len(sets[0]) != len(sets[1]):
        raise TraceError(
            places[1],
            f"does not share a guest with {places[0]}, and one of the sets has only one guest",
            "compare traces of the same guests, or of one guest each",
        )
    chosen = tuple(zip(*pairs, strict=True)) or sets
    of_traces = len(chosen[0]) == len(chosen[1]) == 1
    members = [
        [[ref] for ref in guests[0].traces] if of_traces else [guest.traces for guest in guests] for guests in chosen
    ]
    if not pairs:
        return _Members((list(members[0]), list(members[1])), (), of_traces, in_common=False)
    left_out = {guest.name for guests, some in zip(sets, chosen, strict=True) for guest in guests if guest not in some}
    return _Members((list(members[0]), list(members[1])), tuple(sorted(left_out)), of_traces, in_common=True)


def _common_guests(first: Sequence[Guest], second: Sequence[Guest]) -> list[tuple[Guest, Guest]]:
    """Return the guests in both sets, by name: the same domain on the same host, otherwise on another.

    A guest's name within a set depends on the set's other guests, so it is not compared.
    """
    keys: tuple[Callable[[Guest], object], ...] = (
        lambda guest: (guest.host, guest.domain, guest.traces[-1].info.uuid),
        lambda guest: (guest.host, guest.domain),
        lambda guest: guest.domain,
    )
    left, found = [list(first), list(second)], []
    for key in keys:
        counts = [Counter(map(key, guests)) for guests in left]
        alone = {one for one, count in counts[0].items() if count == counts[1][one] == 1}
        told = [{key(guest): guest for guest in guests if key(guest) in alone} for guests in left]
        found += [(guest, told[1][one]) for one, guest in told[0].items()]
        left = [[guest for guest in guests if key(guest) not in alone] for guests in left]
    return sorted(found, key=lambda pair: pair[0].name)


def _groups(
    members: Sequence[Sequence[TraceRef]], size: int, reader: TraceHashes, random: np.random.Generator
) -> list[dict[str, int]]:
    """Compute the sharing of groups of `size` members: all groups, or a random selection."""
    counts = [len(traces) for traces in members]
    if number_of_groups(counts, size) <= _GROUPS:
        chosen = list(all_groups(counts, size))
    else:
        chosen = [
            tuple((at, int(random.integers(counts[at]))) for at in group)
            for group in sample_groups(counts, size, _GROUPS, random)
        ]
    groups = [[members[member][at] for member, at in group] for group in chosen]
    found = []
    for refs, sets in zip(groups, reader.hash_lists(groups), strict=True):
        own = sum(ref.info.duplicate_pages for ref in refs)
        inter = inter_sharing(sets) * refs[0].file.sample
        found.append({"total": own + inter, "self": own, "inter": inter})
    return found


def _reduction(
    kind: str, sets: Sequence[Sequence[dict[str, int]]], spread: Sequence[Sequence[dict[str, int]]]
) -> MinAvgMax | None:
    first, second = ([group[kind] for group in groups] for groups in sets)
    before = sum(first) / len(first)
    if not before:
        return None
    avg = 100 * (1 - sum(second) / len(second) / before)
    some, others = ([group[kind] for group in groups] for groups in spread)
    found = [100 * (1 - after / one) for one in some if one for after in (min(others), max(others))]
    return MinAvgMax(min([avg, *found]), avg, max([avg, *found]))
