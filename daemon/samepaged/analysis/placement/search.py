"""Local search for a placement, by ruin and recreation with annealing.

A step removes a few guests (random ones, those of two hosts, or guests with much in common) and puts each on the host
with the most or nearly the most common contents. The step is kept if it gains, or if its loss is small; the tolerated
loss falls during the search (Schrimpf et al.: Record breaking optimization results using the ruin and recreate
principle, 2000; Christiaens, Vanden Berghe: Slack induction by string removals for vehicle routing problems, 2020).
This includes the swaps and longer exchanges that full hosts require.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.analysis.placement.arrangement import Arrangement
from samepaged.analysis.placement.move_order import MAX_TRIES, order_moves, shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.analysis.placement.constraints import Constraints, Step
    from samepaged.analysis.placement.contents import Incidence

__all__ = ["Effort", "find_steps"]

# Maximum number of guests removed by a step; probability of skipping the best host; tolerated loss of a step at the
# start and at the end, as a part of a guest's sharing.
MAX_REMOVED_GUESTS: Final = 10
BLINK_RATE: Final = 0.05
INITIAL_TEMPERATURE: Final = 0.1
FINAL_TEMPERATURE: Final = 0.0005
# A search that keeps a path also wanders: half of its steps are a few random feasible moves, and it tolerates larger
# losses. In tight fleets the path to a better arrangement leads through worse ones.
RANDOM_WALK_RATE: Final = 0.5
WALK_INITIAL_TEMPERATURE: Final = 0.5
# A better arrangement counts only if it is reachable. Reachability is checked once in this number of steps.
PATH_CHECK_STEPS: Final = 16
# Fleets with fewer guests get more rounds, because each round is short.
SMALL_FLEET_GUESTS: Final = 50
# Tries for the path of one step if the search keeps a path, and the path length from which the path is not proposed.
STEP_TRIES: Final = 20
MAX_PATH_STEPS: Final = 400


@dataclass(frozen=True, slots=True)
class Effort:
    """Search effort: `rounds` independent searches of `steps` steps each."""

    steps: int
    rounds: int = 2
    tries: int = MAX_TRIES

    @classmethod
    def for_guests(cls, movable: int) -> Effort:
        """Return the effort for this number of movable guests; small fleets get more."""
        return cls(steps=1000 + 20 * movable, rounds=4 if movable < SMALL_FLEET_GUESTS else 2)


def find_steps(
    incidence: Incidence, terms: Constraints, *, effort: Effort, max_moves: int | None = None, seed: int = 0
) -> list[Step]:
    """Return feasible steps to the best arrangement found, in order; an empty list if none is better.

    The result is deterministic for the same arguments.
    """
    movable = np.flatnonzero(terms.movable)
    if not len(incidence.weights) or len(terms.limits) < 2 or not len(movable) or max_moves == 0:  # noqa: PLR2004
        return []
    best: list[Step] = []
    score = 0
    barred = False
    for number in range(effort.rounds):
        random = np.random.default_rng([seed, number])
        # If the result of a search was unreachable, the next search makes only reachable steps.
        search = _Search(incidence, terms, movable, max_moves, random, walks=barred)
        search.run(effort)
        barred = barred or search.unreachable_score > search.best_score
        if search.best_score > score:
            best, score = search.steps, search.best_score
    return best


class _Search:
    """One search. The score is the gained sharing; among arrangements with equal sharing, fewer moved guests win."""

    def __init__(
        self,
        incidence: Incidence,
        terms: Constraints,
        movable: NDArray[np.int64],
        most_moves: int | None,
        random: np.random.Generator,
        *,
        walks: bool,
    ) -> None:
        self.terms = terms
        self.movable = movable
        self.max_moved = len(movable) if most_moves is None else min(most_moves, len(movable))
        self.max_moves = most_moves
        self.random = random
        self.arrangement = Arrangement(incidence, terms)
        self.unit = len(terms.origin) + 1
        self.sharing = self.arrangement.sharing
        self.moved = 0
        self.best_score = 0
        self.steps: list[Step] = []
        self.unreachable_score = 0
        self.keeps_path = walks
        self.path: list[Step] = []

    def score(self) -> int:
        return (self.arrangement.sharing - self.sharing) * self.unit - self.moved

    def run(self, effort: Effort) -> None:
        arrangement = self.arrangement
        typical = self.unit * float(arrangement.contents_at_host[self.movable].max(axis=1).mean())
        warm = WALK_INITIAL_TEMPERATURE if self.keeps_path else INITIAL_TEMPERATURE
        score = tried = 0
        unseen: tuple[int, NDArray[np.int64], list[Step]] | None = None
        for number in range(effort.steps):
            warmth = typical * warm * (FINAL_TEMPERATURE / warm) ** (number / effort.steps)
            before = arrangement.host_of.copy()
            away = self.moved
            wanders = self.keeps_path and self.random.random() < RANDOM_WALK_RATE
            changed = self.random_walk() if wanders else self.recreate(self.ruin())
            after = self.score() if changed else None
            if (
                after is None
                or after < score - warmth * self.random.exponential()
                or (self.keeps_path and not self.extend_path(before))
            ):
                arrangement.restore(before)
                self.moved = away
                continue
            score = after
            if score > max(self.best_score, tried):
                unseen, tried = (score, arrangement.host_of.copy(), self.path[:MAX_PATH_STEPS]), score
            if unseen is not None and (number % PATH_CHECK_STEPS == 0 or number >= effort.steps - 1):
                if not self.record_if_reachable(*unseen, effort.tries):
                    tried = self.best_score
                unseen = None
        if unseen is not None:
            self.record_if_reachable(*unseen, effort.tries)

    def record_if_reachable(self, score: int, hosts: NDArray[np.int64], path: list[Step], tries: int) -> bool:
        """Find a path to `hosts` and record it: direct, from the best arrangement so far, or the search's own path."""
        most = len(hosts) * len(self.terms.limits) if self.max_moves is None else self.max_moves
        steps = order_moves(self.terms, hosts, max_moves=most, tries=tries)
        if steps is None and self.steps:
            middle = self.terms.origin.copy()
            for guest, host in self.steps:
                middle[guest] = host
            onwards = order_moves(replace(self.terms, origin=middle), hosts, max_moves=most, tries=tries)
            steps = onwards and shorten(self.terms, [*self.steps, *onwards])
        if steps is None and 0 < len(path) < MAX_PATH_STEPS:
            steps = shorten(self.terms, path)
        if steps is None or len(steps) > most:
            self.unreachable_score = max(self.unreachable_score, score)
            return False
        self.steps, self.best_score = steps, score
        return True

    def extend_path(self, before: NDArray[np.int64]) -> bool:
        """Extend the path from `before` to the current arrangement; return False if there is no path."""
        after = self.arrangement.host_of
        steps = order_moves(replace(self.terms, origin=before), after, tries=STEP_TRIES)
        self.path += steps or []
        return steps is not None

    def random_walk(self) -> bool:
        """Make a few random feasible moves, regardless of gain."""
        arrangement, terms, random = self.arrangement, self.terms, self.random
        changed = False
        for _ in range(int(random.integers(1, 5))):
            guest = int(random.choice(self.movable))
            here, origin = int(arrangement.host_of[guest]), int(terms.origin[guest])
            arrangement.remove(guest)
            room = arrangement.feasible_hosts(guest)
            room[here] = False
            away = self.moved - int(here != origin)
            if away >= self.max_moved:
                room &= np.arange(len(room)) == origin
            there = np.flatnonzero(room)
            host = int(random.choice(there)) if len(there) else here
            arrangement.place(guest, host)
            self.moved = away + int(host != origin)
            changed = changed or host != here
        return changed

    def ruin(self) -> list[int]:
        """Return the guests to remove."""
        random, movable, host_of = self.random, self.movable, self.arrangement.host_of
        count = min(int(random.integers(1, MAX_REMOVED_GUESTS + 1)), len(movable))
        way = random.random()
        if way < 0.3:  # noqa: PLR2004 - one of three ways
            chosen = random.choice(movable, count, replace=False)
        else:
            first = int(random.choice(movable))
            if way < 0.65:  # noqa: PLR2004
                # Guests of its host, and of a host with many of its contents.
                found = self.arrangement.contents_at_host[first] * random.random(len(self.terms.limits))
                found[host_of[first]] = -1
                hosts = host_of[movable]
                near = movable[(hosts == host_of[first]) | (hosts == np.argmax(found))]
                chosen = random.choice(near, min(count, len(near)), replace=False)
            else:
                kin = self.arrangement.common_contents(first)[movable] * (random.random() + random.random(len(movable)))
                chosen = movable[np.argsort(-kin)[:count]]
        return [int(guest) for guest in chosen]

    def recreate(self, guests: list[int]) -> bool:
        """Remove guests and place them again in turn. Returns False, with some unplaced, if room is missing."""
        arrangement, terms, random = self.arrangement, self.terms, self.random
        for guest in guests:
            self.moved -= int(arrangement.host_of[guest] != terms.origin[guest])
            arrangement.remove(guest)
        way = random.integers(4)
        if way == 0:
            random.shuffle(guests)
        elif way == 1:
            guests.sort(key=lambda guest: -int(terms.memory[guest]))
        elif way == 2:  # noqa: PLR2004 - one of four ways
            guests.sort(key=lambda guest: -int(arrangement.contents_at_host[guest].max()))
        else:
            kin = arrangement.common_contents(guests[0])
            guests.sort(key=lambda guest: -int(kin[guest]))
        # No guest gains on an empty host: one is placed at random, so that related guests gain there.
        pioneers = way == 3  # noqa: PLR2004
        for guest in guests:
            room = arrangement.feasible_hosts(guest)
            origin = int(terms.origin[guest])
            if self.moved >= self.max_moved:
                room &= np.arange(len(room)) == origin
            value = arrangement.contents_at_host[guest] * self.unit
            value[origin] += 1
            value[~room] = -1
            host = int(np.argmax(value))
            if value[host] < 0:
                return False
            if pioneers:
                host, pioneers = int(random.choice(np.flatnonzero(room))), False
            elif random.random() < BLINK_RATE:
                value[host] = -1
                second = int(np.argmax(value))
                host = second if value[second] >= 0 else host
            arrangement.place(guest, host)
            self.moved += int(host != origin)
        return True
