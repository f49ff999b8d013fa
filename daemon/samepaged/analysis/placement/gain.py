"""Gain of moves, counted content by content, and an upper bound for any moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from samepaged.analysis.placement.constraints import Constraints, Step
    from samepaged.analysis.placement.contents import Incidence

__all__ = ["Gains", "count_gains"]

# Hosts times classes counted at a time, four bytes each.
TABLE_CELLS: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Gains:
    """Counts of contents, all exact.

    step_gains: int64 (steps,), the increase of the sum of S_inter over the hosts by each step, after the preceding
    ones. before, after: int64 (hosts,), S_inter of each host. upper_bound: the maximum total gain of any feasible
    steps. squares: the sum over the contents of the squared gain of each, for the error of a sample.
    """

    step_gains: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    upper_bound: int
    squares: int


def count_gains(
    incidence: Incidence, terms: Constraints, steps: Sequence[Step], *, max_moves: int | None = None
) -> Gains:
    """Count the gains of `steps`, made one after the other from the current hosts."""
    of_steps = np.zeros(len(steps), dtype=np.int64)
    before, after = np.zeros((2, len(terms.limits)), dtype=np.int64)
    held = np.zeros(len(terms.origin), dtype=np.int64)
    at_most = squares = 0
    for part in _parts(incidence, TABLE_CELLS // max(len(terms.limits), 1)):
        class_of = part.class_of_entries()
        counts = _counts(class_of, terms.origin[part.guests], len(terms.limits), len(part.weights))
        hosts_before = np.count_nonzero(counts, axis=0)
        np.add.at(held, part.guests, part.weights[class_of])
        before += _inter_sharing(counts, part.weights)
        at_most += int(part.weights @ _max_reduction(part, terms, class_of, hosts_before, max_moves))
        _apply_steps(steps, part, terms, class_of, counts, of_steps)
        after += _inter_sharing(counts, part.weights)
        fewer = hosts_before - np.count_nonzero(counts, axis=0)
        squares += int(part.weights @ fewer**2)
    if max_moves is not None:
        # A move gains at most the contents that its guest has in common with others.
        at_most = min(at_most, max_moves * int(held[terms.movable].max(initial=0)))
    return Gains(of_steps, before, after, at_most, squares)


def _parts(incidence: Incidence, size: int) -> Iterator[Incidence]:
    for start in range(0, len(incidence.weights), max(size, 1)):
        yield incidence.select(slice(start, start + max(size, 1)))


def _counts(class_of: NDArray[np.int64], host_of: NDArray[np.int64], hosts: int, classes: int) -> NDArray[np.int32]:
    """Return the number of guests of each class on each host: (hosts, classes)."""
    flat = np.bincount(host_of * classes + class_of, minlength=hosts * classes)
    return flat.astype(np.int32).reshape(hosts, classes)


def _inter_sharing(counts: NDArray[np.int32], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return S_inter of each host: a content of n of its guests is n - 1 redundant pages."""
    found: NDArray[np.int64] = np.maximum(counts - 1, 0) @ weights
    return found


def _apply_steps(
    steps: Sequence[Step],
    part: Incidence,
    terms: Constraints,
    class_of: NDArray[np.int64],
    counts: NDArray[np.int32],
    of_steps: NDArray[np.int64],
) -> None:
    """Make the steps in `counts`, and add the gain of each to `of_steps`."""
    order = np.argsort(part.guests, kind="stable")
    cuts = np.searchsorted(part.guests[order], np.arange(len(terms.origin) + 1))
    at = terms.origin.copy()
    for number, (guest, host) in enumerate(steps):
        classes = class_of[order[cuts[guest] : cuts[guest + 1]]]
        there, here = counts[host, classes], counts[at[guest], classes]
        weights = part.weights[classes]
        of_steps[number] += int(weights[there > 0].sum()) - int(weights[here > 1].sum())
        counts[host, classes] = there + 1
        counts[at[guest], classes] = here - 1
        at[guest] = host


def _max_reduction(
    part: Incidence,
    terms: Constraints,
    class_of: NDArray[np.int64],
    hosts_before: NDArray[np.int64],
    most_moves: int | None,
) -> NDArray[np.int64]:
    """Return the maximum reduction of each class's number of hosts: its guests need memory, and some cannot move."""
    if not terms.has_feasible_step():
        return np.zeros_like(part.weights)
    room = np.cumsum(np.sort(np.maximum(terms.limits, terms.load))[::-1])
    memory = np.add.reduceat(terms.memory[part.guests], part.starts[:-1])
    needed = np.searchsorted(room, memory) + 1
    stays = ~terms.movable[part.guests]
    kept = _counts(class_of[stays], terms.origin[part.guests[stays]], len(terms.limits), len(part.weights))
    needed = np.maximum(needed, np.count_nonzero(kept, axis=0))
    fewer: NDArray[np.int64] = np.maximum(hosts_before - needed, 0)
    if most_moves is not None:
        np.minimum(fewer, most_moves, out=fewer)
    return fewer
