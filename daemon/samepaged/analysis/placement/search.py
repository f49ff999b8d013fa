"""Where guests had better be: local search by ruin and recreation, with annealing.

A step takes a few guests out (any, those of two hosts, or some that have much in common) and puts each where it finds
most, or nearly; it is kept if it gains, or loses little, less as the search goes on (Schrimpf et al.: Record breaking
optimization results using the ruin and recreate principle, 2000; Christiaens, Vanden Berghe: Slack induction by
string removals for vehicle routing problems, 2020). Swaps and longer exchanges, which full hosts need, are such steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.analysis.placement.arrangement import Arrangement
from samepaged.analysis.placement.move_order import MOST_TRIES, in_order, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.analysis.placement.constraints import Step, Terms
    from samepaged.analysis.placement.contents import Incidence

__all__ = ["Effort", "steps_to_better"]

# The guests that a step takes out, at most; how often the best host is passed over; the share of a guest's sharing that
# a step may lose at first, and at last.
MOST_TAKEN: Final = 10
PASSED_OVER: Final = 0.05
WARM: Final = 0.1
COLD: Final = 0.0005
# A search that walks wanders, too: half of its steps are a few moves that can be made, whatever they bring, and it may
# lose more, since in narrow places the way to what is better leads through what is worse.
WANDERED: Final = 0.5
WARM_WALK: Final = 0.5
# A better arrangement is one only if there is a way to it. That is looked for now and then, and not at each step.
LOOK_EVERY: Final = 16
# Fewer guests than this can have more rounds, each of them being short.
FEW: Final = 50
# Tries for the way of one step, where the search walks, and the length from which its path is no way to be proposed.
SHORT_WAY: Final = 20
LONG_WAY: Final = 400


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to search: `steps` of each of `rounds`, for each of which the search begins anew."""

    steps: int
    rounds: int = 2
    tries: int = MOST_TRIES

    @classmethod
    def for_guests(cls, movable: int) -> Effort:
        """Enough for as many guests that may move; few of them can have more."""
        return cls(steps=1000 + 20 * movable, rounds=4 if movable < FEW else 2)


def steps_to_better(
    incidence: Incidence, terms: Terms, *, effort: Effort, most_moves: int | None = None, seed: int = 0
) -> list[Step]:
    """Steps, in an order in which each keeps to the terms, to the best arrangement found; none where none is better.

    The same for the same arguments.
    """
    movable = np.flatnonzero(terms.movable)
    if not len(incidence.weights) or len(terms.limits) < 2 or not len(movable) or most_moves == 0:  # noqa: PLR2004
        return []
    best: list[Step] = []
    score = 0
    barred = False
    for number in range(effort.rounds):
        random = np.random.default_rng([seed, number])
        # Where there was no way to what a search found, the next one goes only where it has a way.
        search = _Search(incidence, terms, movable, most_moves, random, walks=barred)
        search.run(effort)
        barred = barred or search.missed > search.reached
        if search.reached > score:
            best, score = search.steps, search.reached
    return best


class _Search:
    """One search. A score is the sharing gained, and among arrangements of one sharing the fewest guests moved."""

    def __init__(
        self,
        incidence: Incidence,
        terms: Terms,
        movable: NDArray[np.int64],
        most_moves: int | None,
        random: np.random.Generator,
        *,
        walks: bool,
    ) -> None:
        self.terms = terms
        self.movable = movable
        self.most_away = len(movable) if most_moves is None else min(most_moves, len(movable))
        self.most_moves = most_moves
        self.random = random
        self.arrangement = Arrangement(incidence, terms)
        self.unit = len(terms.origin) + 1
        self.sharing = self.arrangement.sharing
        self.away = 0
        self.reached = 0
        self.steps: list[Step] = []
        self.missed = 0
        self.walks = walks
        self.path: list[Step] = []

    def score(self) -> int:
        return (self.arrangement.sharing - self.sharing) * self.unit - self.away

    def run(self, effort: Effort) -> None:
        arrangement = self.arrangement
        typical = self.unit * float(arrangement.found[self.movable].max(axis=1).mean())
        warm = WARM_WALK if self.walks else WARM
        score = tried = 0
        unseen: tuple[int, NDArray[np.int64], list[Step]] | None = None
        for number in range(effort.steps):
            warmth = typical * warm * (COLD / warm) ** (number / effort.steps)
            before = arrangement.host_of.copy()
            away = self.away
            wanders = self.walks and self.random.random() < WANDERED
            changed = self.wander() if wanders else self.exchange(self.chosen())
            after = self.score() if changed else None
            if (
                after is None
                or after < score - warmth * self.random.exponential()
                or (self.walks and not self.walk(before))
            ):
                arrangement.arrange(before)
                self.away = away
                continue
            score = after
            if score > max(self.reached, tried):
                unseen, tried = (score, arrangement.host_of.copy(), self.path[:LONG_WAY]), score
            if unseen is not None and (number % LOOK_EVERY == 0 or number >= effort.steps - 1):
                if not self.look(*unseen, effort.tries):
                    tried = self.reached
                unseen = None
        if unseen is not None:
            self.look(*unseen, effort.tries)

    def look(self, score: int, hosts: NDArray[np.int64], path: list[Step], tries: int) -> bool:
        """Look for a way to `hosts`, and remember it: straight, or by way of the best so far, or that of the walk."""
        most = len(hosts) * len(self.terms.limits) if self.most_moves is None else self.most_moves
        steps = in_order(self.terms, hosts, most_moves=most, tries=tries)
        if steps is None and self.steps:
            middle = self.terms.origin.copy()
            for guest, host in self.steps:
                middle[guest] = host
            onwards = in_order(replace(self.terms, origin=middle), hosts, most_moves=most, tries=tries)
            steps = onwards and shortened(self.terms, [*self.steps, *onwards])
        if steps is None and 0 < len(path) < LONG_WAY:
            steps = shortened(self.terms, path)
        if steps is None or len(steps) > most:
            self.missed = max(self.missed, score)
            return False
        self.steps, self.reached = steps, score
        return True

    def walk(self, before: NDArray[np.int64]) -> bool:
        """Go on from `before` to what is arranged now, if there is a way."""
        after = self.arrangement.host_of
        steps = in_order(replace(self.terms, origin=before), after, tries=SHORT_WAY)
        self.path += steps or []
        return steps is not None

    def wander(self) -> bool:
        """Make a few moves that can be made, whatever they bring."""
        arrangement, terms, random = self.arrangement, self.terms, self.random
        changed = False
        for _ in range(int(random.integers(1, 5))):
            guest = int(random.choice(self.movable))
            here, origin = int(arrangement.host_of[guest]), int(terms.origin[guest])
            arrangement.take(guest)
            room = arrangement.open_to(guest)
            room[here] = False
            away = self.away - int(here != origin)
            if away >= self.most_away:
                room &= np.arange(len(room)) == origin
            there = np.flatnonzero(room)
            host = int(random.choice(there)) if len(there) else here
            arrangement.put(guest, host)
            self.away = away + int(host != origin)
            changed = changed or host != here
        return changed

    def chosen(self) -> list[int]:
        """Guests to take out."""
        random, movable, host_of = self.random, self.movable, self.arrangement.host_of
        count = min(int(random.integers(1, MOST_TAKEN + 1)), len(movable))
        way = random.random()
        if way < 0.3:  # noqa: PLR2004 - one of three ways
            chosen = random.choice(movable, count, replace=False)
        else:
            first = int(random.choice(movable))
            if way < 0.65:  # noqa: PLR2004
                # Those of its host, and of one where it would find much.
                found = self.arrangement.found[first] * random.random(len(self.terms.limits))
                found[host_of[first]] = -1
                hosts = host_of[movable]
                near = movable[(hosts == host_of[first]) | (hosts == np.argmax(found))]
                chosen = random.choice(near, min(count, len(near)), replace=False)
            else:
                kin = self.arrangement.kin(first)[movable] * (random.random() + random.random(len(movable)))
                chosen = movable[np.argsort(-kin)[:count]]
        return [int(guest) for guest in chosen]

    def exchange(self, guests: list[int]) -> bool:
        """Take guests out and put them back, one after the other; False, with some nowhere, where there is no room."""
        arrangement, terms, random = self.arrangement, self.terms, self.random
        for guest in guests:
            self.away -= int(arrangement.host_of[guest] != terms.origin[guest])
            arrangement.take(guest)
        way = random.integers(4)
        if way == 0:
            random.shuffle(guests)
        elif way == 1:
            guests.sort(key=lambda guest: -int(terms.memory[guest]))
        elif way == 2:  # noqa: PLR2004 - one of four ways
            guests.sort(key=lambda guest: -int(arrangement.found[guest].max()))
        else:
            kin = arrangement.kin(guests[0])
            guests.sort(key=lambda guest: -int(kin[guest]))
        # Nobody finds anything on an empty host: one goes there by chance, so that its kin finds that one.
        pioneers = way == 3  # noqa: PLR2004
        for guest in guests:
            room = arrangement.open_to(guest)
            origin = int(terms.origin[guest])
            if self.away >= self.most_away:
                room &= np.arange(len(room)) == origin
            value = arrangement.found[guest] * self.unit
            value[origin] += 1
            value[~room] = -1
            host = int(np.argmax(value))
            if value[host] < 0:
                return False
            if pioneers:
                host, pioneers = int(random.choice(np.flatnonzero(room))), False
            elif random.random() < PASSED_OVER:
                value[host] = -1
                second = int(np.argmax(value))
                host = second if value[second] >= 0 else host
            arrangement.put(guest, host)
            self.away += int(host != origin)
        return True
