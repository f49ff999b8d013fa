"""Planning of moves that maximise sharing within hosts: Σ over the hosts of S_inter(host), or equivalently the smallest
sum of distinct contents per host.

The seed (Barker et al., USENIX ATC 2012, section 7) cites Wood et al.: Memory Buddies (VEE 2009), which places by such
fingerprints, and Sindelar et al.: Sharing-aware algorithms for virtual machine colocation (SPAA 2011), which shows the
complexity of the problem. The plan is not proved optimal; its gain is counted, not estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.analysis.placement.constraints import Constraints
from samepaged.analysis.placement.contents import shared_contents
from samepaged.analysis.placement.gain import count_gains
from samepaged.analysis.placement.search import Effort, find_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.analysis.placement.constraints import Step
    from samepaged.analysis.placement.contents import Incidence
    from samepaged.analysis.placement.gain import Gains

__all__ = ["Guest", "Host", "HostOutcome", "Move", "Placement", "constraints_of", "lowest_hashes", "plan_placement"]

# Entries (a class and one of its guests) up to which the search works without a sample.
MAX_SEARCHED_CONTENTS: Final = 1 << 19
MIDDLE: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest: its host's name, its full memory in pages, and whether it must stay."""

    domain: str
    host: str
    memory_pages: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """A host, the limit of its guests' total memory in pages, and the origin of that limit."""

    name: str
    limit_pages: int
    limit_origin: str


@dataclass(frozen=True, slots=True)
class Move:
    """A move. `gain_pages` is the increase of the sum of S_inter of the two hosts, after the preceding moves."""

    domain: str
    origin: str
    target: str
    gain_pages: int


@dataclass(frozen=True, slots=True)
class HostOutcome:
    """A host before and after the moves: its guests' memory, and S_inter(host), in pages."""

    host: Host
    memory_pages: tuple[int, int]
    inter_sharing_pages: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Placement:
    """Moves in execution order. `gain_pages` is the sum of their gains. No moves within the limits gain more than
    `upper_bound_pages`; the bound may be unreachable.

    sample: 1/N of the contents were available, and all counts of shared pages are scaled by N. gain_error_pages is then
    the standard error of the gain, and 0 otherwise. search_sample: the search used 1/N of the contents.
    """

    moves: tuple[Move, ...]
    gain_pages: int
    gain_error_pages: float
    upper_bound_pages: int
    hosts: tuple[HostOutcome, ...]
    sample: int
    search_sample: int


def plan_placement(
    guests: Sequence[Guest],
    hosts: Sequence[Host],
    sets: Sequence[NDArray[np.uint64]],
    *,
    sample: int = 1,
    search_sample: int | None = None,
    max_moves: int | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Placement:
    """Propose moves. `sets` has U(V) of each of `guests` (uint64, ascending), or its contents in the lowest 1/`sample`
    of the hashes, as in traces.

    At most `max_moves` moves are made (None: any number). The search uses 1/`search_sample` of the contents (None: few
    enough to finish in about a minute); the plan is then counted over all of `sets`. The same arguments give the same
    plan.
    """
    terms = constraints_of(guests, hosts)
    incidence = shared_contents(sets, threads=threads)
    if search_sample is None:
        over = -(-len(incidence.guests) // MAX_SEARCHED_CONTENTS)
        search_sample = sample << max(over - 1, 0).bit_length()
    searched = incidence
    if search_sample > sample:
        searched = shared_contents([lowest_hashes(hashes, search_sample) for hashes in sets], threads=threads)
    effort = effort or Effort.for_guests(int(np.count_nonzero(terms.movable)))
    steps = find_steps(searched, terms, effort=effort, max_moves=max_moves, seed=seed)
    steps, found = _best_prefix(incidence, terms, steps, max_moves)
    return Placement(
        moves=tuple(_moves(guests, hosts, terms, steps, found, sample)),
        gain_pages=int(found.step_gains.sum()) * sample,
        gain_error_pages=sample * math.sqrt((1 - 1 / sample) * found.squares),
        upper_bound_pages=found.upper_bound * sample,
        hosts=tuple(_outcomes(hosts, terms, steps, found, sample)),
        sample=sample,
        search_sample=max(search_sample, sample),
    )


def constraints_of(guests: Sequence[Guest], hosts: Sequence[Host]) -> Constraints:
    """Return the constraints, with guests and hosts by number and memory in pages."""
    number = {host.name: index for index, host in enumerate(hosts)}
    of_name: dict[str, list[int]] = {}
    for index, guest in enumerate(guests):
        of_name.setdefault(guest.domain, []).append(index)
    return Constraints(
        origin=np.array([number[guest.host] for guest in guests], dtype=np.int64),
        memory=np.array([guest.memory_pages for guest in guests], dtype=np.int64),
        limits=np.array([host.limit_pages for host in hosts], dtype=np.int64),
        movable=np.array([not guest.pinned for guest in guests], dtype=np.bool_),
        rivals=tuple(
            tuple(other for other in of_name[guest.domain] if other != index) for index, guest in enumerate(guests)
        ),
    )


def lowest_hashes(hashes: NDArray[np.uint64], sample: int) -> NDArray[np.uint64]:
    """Return the hashes in the lowest 1/`sample` as signed numbers (`sample_threshold`): a view, still ascending."""
    if sample == 1:
        return hashes
    bounds = np.array([MIDDLE, MIDDLE + (1 << 64) // sample - 1], dtype=np.uint64)
    return hashes[np.searchsorted(hashes, bounds[0]) : np.searchsorted(hashes, bounds[1], side="right")]


def _best_prefix(
    incidence: Incidence, terms: Constraints, steps: list[Step], most_moves: int | None
) -> tuple[list[Step], Gains]:
    """Return the steps up to the largest total gain, with their gains."""
    found = count_gains(incidence, terms, steps, max_moves=most_moves)
    totals = np.cumsum(np.append(0, found.step_gains))
    best = int(np.argmax(totals))
    if best == len(steps):
        return steps, found
    return steps[:best], count_gains(incidence, terms, steps[:best], max_moves=most_moves)


def _moves(
    guests: Sequence[Guest], hosts: Sequence[Host], terms: Constraints, steps: Sequence[Step], found: Gains, sample: int
) -> list[Move]:
    at = terms.origin.tolist()
    moves = []
    for (guest, host), gain in zip(steps, found.step_gains.tolist(), strict=True):
        moves.append(Move(guests[guest].domain, hosts[at[guest]].name, hosts[host].name, gain * sample))
        at[guest] = host
    return moves


def _outcomes(
    hosts: Sequence[Host], terms: Constraints, steps: Sequence[Step], found: Gains, sample: int
) -> list[HostOutcome]:
    at = terms.origin.copy()
    for guest, host in steps:
        at[guest] = host
    memory = zip(terms.load.tolist(), terms.load_of(at).tolist(), strict=True)
    sharing = zip((found.before * sample).tolist(), (found.after * sample).tolist(), strict=True)
    return [HostOutcome(*one) for one in zip(hosts, memory, sharing, strict=True)]
