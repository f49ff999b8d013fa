from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.placement.constraints import Constraints, Step, is_feasible
from samepaged.analysis.placement.move_order import order_moves, shorten


def terms(
    origin: list[int], memory: list[int], limits: list[int], rivals: tuple[tuple[int, ...], ...] = ()
) -> Constraints:
    return Constraints(
        np.array(origin),
        np.array(memory),
        np.array(limits),
        np.ones(len(origin), dtype=np.bool_),
        rivals or ((),) * len(origin),
    )


def order(yard: Constraints, target: list[int], most_moves: int | None = None) -> list[Step] | None:
    return order_moves(yard, np.array(target), max_moves=most_moves)


def ends(yard: Constraints, steps: list[Step]) -> list[int]:
    at: list[int] = yard.origin.tolist()
    for guest, host in steps:
        at[guest] = host
    return at


def test_moves_free_memory_first() -> None:
    # 1 must leave b for c before 0 has room there.
    assert order(terms([0, 1], [4, 4], [4, 4, 4]), [1, 2]) == [(1, 2), (0, 1)]


def test_full_hosts_swap_by_one_detour() -> None:
    yard = terms([0, 1, 2], [4, 4, 4], [4, 4, 4, 4])
    steps = order(yard, [1, 2, 0])
    assert steps is not None
    assert len(steps) == 4
    assert is_feasible(yard, steps)
    assert ends(yard, steps) == [1, 2, 0]


def test_uninvolved_guest_detours_and_returns() -> None:
    # 0 and 1 swap: this needs room that exists only while 2 is on the third host, which is too small for either.
    yard = terms([0, 1, 1], [4, 4, 3], [4, 8, 3])
    assert order(yard, [1, 0, 1]) == [(2, 2), (0, 1), (1, 0), (2, 1)]


def test_impossible_order_is_none() -> None:
    full = terms([0, 1], [4, 4], [4, 4])
    assert order(full, [1, 0]) is None
    spare = terms([0, 1], [4, 4], [4, 4, 4])
    assert order(spare, [1, 0], most_moves=2) is None
    assert order(spare, [1, 0], most_moves=3) is not None


def test_rivals_swap_without_meeting() -> None:
    yard = terms([0, 1], [1, 1], [9, 9, 9], ((1,), (0,)))
    steps = order(yard, [1, 0])
    assert steps is not None
    assert len(steps) == 3
    assert is_feasible(yard, steps)


yards = st.integers(1, 6).flatmap(
    lambda guests: st.tuples(
        st.lists(st.integers(0, 2), min_size=guests, max_size=guests),
        st.lists(st.integers(0, 5), min_size=guests, max_size=guests),
        st.lists(st.integers(0, 9), min_size=3, max_size=3),
        st.lists(st.integers(0, 2), min_size=guests, max_size=guests),
    )
)


@settings(deadline=None)
@given(yards)
def test_steps_meet_constraints_and_target(yard: tuple[list[int], ...]) -> None:
    origin, memory, limits, target = yard
    drawn = terms(origin, memory, limits)
    steps = order(drawn, target)
    if steps is not None:
        assert is_feasible(drawn, steps)
        assert ends(drawn, steps) == target


@settings(deadline=None)
@given(yards, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=30))
def test_shortened_steps_reach_the_target(yard: tuple[list[int], ...], wanted: list[Step]) -> None:
    origin, memory, limits, _ = yard
    drawn = terms(origin, memory, limits)
    walk: list[Step] = []
    for step in wanted:
        if step[0] < len(origin) and is_feasible(drawn, [*walk, step]):
            walk.append(step)
    short = shorten(drawn, walk)
    assert len(short) <= len(walk)
    assert is_feasible(drawn, short)
    assert ends(drawn, short) == ends(drawn, walk)


def test_circular_steps_are_removed() -> None:
    yard = terms([0, 1], [1, 1], [9, 9, 9])
    assert shorten(yard, [(0, 1), (0, 2), (0, 0), (1, 2)]) == [(1, 2)]
    assert shorten(yard, [(0, 1), (1, 0), (0, 2)]) in ([(1, 0), (0, 2)], [(0, 2), (1, 0)])
