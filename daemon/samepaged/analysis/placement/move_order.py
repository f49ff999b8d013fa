"""Order of the moves to a target arrangement, with each move within the limits. A detour through a third host resolves
cycles of full hosts.

Deciding whether such an order exists is hard (it contains bin packing), so the search stops after some tries.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from samepaged.analysis.placement.constraints import is_feasible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from samepaged.analysis.placement.constraints import Constraints, Step

__all__ = ["MAX_TRIES", "order_moves", "shorten"]

MAX_TRIES: Final = 200


def order_moves(
    terms: Constraints, target: NDArray[np.int64], *, max_moves: int | None = None, tries: int = MAX_TRIES
) -> list[Step] | None:
    """Return steps from the current hosts to `target` (int64 (guests,)), at most `max_moves`; None if none were found.

    Direct moves are made as long as possible. Then each detour is a try, the most promising first.
    """
    wanted: list[int] = target.tolist()
    origin: list[int] = terms.origin.tolist()
    pending = [guest for guest, host in enumerate(wanted) if origin[guest] != host]
    most = len(wanted) * len(terms.limits) if max_moves is None else max_moves
    if len(pending) > most:
        return None
    yard = _OrderSearch(terms, wanted)
    for priority in yard.priorities():
        steps = yard.search(pending, priority, most, tries)
        if steps is not None:
            return steps
    return None


def shorten(terms: Constraints, steps: Sequence[Step]) -> list[Step]:
    """Return steps with the same result as `steps`, without unnecessary ones: cycles, and guests that move twice
    although they could move directly to the second host, at either time.
    """
    kept = _remove_cycles(terms, steps)
    number = 0
    while number < len(kept):
        guest, _ = kept[number]
        before, after = kept[:number], kept[number + 1 :]
        again = next((at for at, (other, _) in enumerate(after) if other == guest), None)
        shorter: list[list[Step]] = []
        if again is not None:
            beyond = after[again][1]
            shorter = [[*before, *after], [*before, (guest, beyond), *after[:again], *after[again + 1 :]]]
            start = next((to for other, to in reversed(before) if other == guest), int(terms.origin[guest]))
            if start == beyond:
                shorter = [[*before, *after[:again], *after[again + 1 :]]]
        better = next((one for one in shorter if is_feasible(terms, one)), None)
        if better is None:
            number += 1
        else:
            kept, number = better, 0
    return kept


def _remove_cycles(terms: Constraints, steps: Sequence[Step]) -> list[Step]:
    at: list[int] = terms.origin.tolist()
    kept: list[Step] = []
    met = {tuple(at): 0}
    for guest, host in steps:
        at[guest] = host
        kept.append((guest, host))
        now = tuple(at)
        del kept[met.get(now, len(kept)) :]
        met = {state: count for state, count in met.items() if count <= len(kept)}
        met[now] = len(kept)
    return kept


class _State:
    """Hosts of the guests after some steps."""

    __slots__ = ("free_memory", "host_of", "steps")

    def __init__(self, at: list[int], free: list[int], steps: list[Step]) -> None:
        self.host_of, self.free_memory, self.steps = at, free, steps

    def copy(self) -> _State:
        return _State(self.host_of.copy(), self.free_memory.copy(), self.steps.copy())


class _OrderSearch:
    """The constraints as Python integers, which are faster for single accesses."""

    def __init__(self, terms: Constraints, wanted: list[int]) -> None:
        self.terms = terms
        self.memory: list[int] = terms.memory.tolist()
        self.movable: list[bool] = terms.movable.tolist()
        self.target = wanted

    def priorities(self) -> Iterator[Callable[[int], int]]:
        """Yield priorities of possible moves: large guests first while there is room, or small ones."""
        yield lambda guest: -self.memory[guest]
        yield lambda guest: self.memory[guest]

    def search(
        self, pending: Sequence[int], priority: Callable[[int], int], most: int, tries: int
    ) -> list[Step] | None:
        """Search best first: the fewest guests left to move, with the fewest moves made."""
        free = [int(room) for room in self.terms.limits - self.terms.load]
        first = _State(self.terms.origin.tolist(), free, [])
        left = self.apply_direct_moves(first, sorted(pending, key=priority))
        heap: list[tuple[int, int, _State, list[int]]] = [(0, 0, first, left)]
        seen = {tuple(first.host_of)}
        made = 0
        while heap:
            _, _, state, left = heapq.heappop(heap)
            if not left:
                return state.steps if len(state.steps) <= most else None
            for guest, host in self.detours(state, left):
                # The detour, and the return from it.
                if len(state.steps) + 1 + len(set(left) | {guest}) > most:
                    continue
                if made >= tries:
                    return None
                made += 1
                beyond = state.copy()
                self.move(beyond, guest, host)
                others = left if guest in left else sorted([*left, guest], key=priority)
                # Not directly back to the previous host.
                still = self.apply_direct_moves(beyond, others, last=guest)
                key = tuple(beyond.host_of)
                if key not in seen:
                    seen.add(key)
                    heapq.heappush(heap, (2 * len(still) + len(beyond.steps), made, beyond, still))
        return None

    def apply_direct_moves(self, state: _State, left: list[int], last: int | None = None) -> list[int]:
        """Make the possible direct moves, `last` after the others, and return the waiting guests."""
        if last is not None:
            left = [guest for guest in left if guest != last] + [last]
        moved = True
        while moved:
            waiting = []
            for guest in left:
                if self.can_move(state, guest, self.target[guest]):
                    self.move(state, guest, self.target[guest])
                else:
                    waiting.append(guest)
            moved = len(waiting) < len(left)
            left = waiting
        return left

    def can_move(self, state: _State, guest: int, host: int) -> bool:
        return self.memory[guest] <= state.free_memory[host] and not any(
            state.host_of[rival] == host for rival in self.terms.rivals[guest]
        )

    def move(self, state: _State, guest: int, host: int) -> None:
        state.free_memory[state.host_of[guest]] += self.memory[guest]
        state.free_memory[host] -= self.memory[guest]
        state.host_of[guest] = host
        state.steps.append((guest, host))

    def detours(self, state: _State, left: list[int]) -> Iterator[Step]:
        """Yield detours: waiting guests to any host with room, then other guests from the hosts that are waited for."""
        blocked = {self.target[guest] for guest in left}
        waiting = set(left)
        others = [
            guest
            for guest, host in enumerate(state.host_of)
            if self.movable[guest] and host in blocked and guest not in waiting
        ]
        roomiest = sorted(range(len(state.free_memory)), key=lambda host: -state.free_memory[host])
        for guests in (left, others):
            for guest in guests:
                for host in roomiest:
                    if state.free_memory[host] < self.memory[guest]:
                        break
                    if host != state.host_of[guest] and self.can_move(state, guest, host):
                        yield guest, host
