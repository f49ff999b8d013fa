from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.placement.plan import Guest, Host, lowest_hashes, plan_placement
from samepaged.analysis.placement.search import Effort
from samepaged.traces.trace import sample_threshold
from tests.unit.analysis.placement.oracle import Fleet, fleet, fleets

LITTLE = Effort(steps=8, rounds=2, tries=20)
ENOUGH = Effort(steps=150)


@settings(max_examples=60, deadline=None)
@given(fleets(), st.none() | st.integers(0, 4), st.integers(0, 2))
def test_every_prefix_meets_limits_and_gains(drawn: Fleet, most: int | None, seed: int) -> None:
    placement = plan_placement(
        drawn.guests, drawn.hosts, drawn.sets, max_moves=most, seed=seed, effort=LITTLE, threads=1
    )
    drawn.check(placement)
    assert 0 <= placement.gain_pages <= placement.upper_bound_pages
    assert most is None or len(placement.moves) <= most
    # The plan does not end with moves that gain nothing.
    assert not placement.moves or placement.moves[-1].gain_pages > 0


def test_guests_of_one_image_are_colocated() -> None:
    red, blue = range(10, 20), range(30, 40)
    drawn = fleet(
        ("r1", "a", 4, red), ("b1", "a", 4, blue), ("r2", "b", 4, red), ("b2", "b", 4, blue), limits={"a": 12, "b": 12}
    )
    placement = plan_placement(drawn.guests, drawn.hosts, drawn.sets, effort=ENOUGH)
    drawn.check(placement)
    assert placement.gain_pages == placement.upper_bound_pages == 20
    assert sorted(move.gain_pages for move in placement.moves) == [10, 10]


def test_full_hosts_swap_through_third_host() -> None:
    red, blue = range(10, 20), range(30, 40)
    guests = (("r1", "a", 4, red), ("b1", "a", 4, blue), ("r2", "b", 4, red), ("b2", "b", 4, blue))
    limits = {"a": 8, "b": 8}
    drawn = fleet(*guests, limits=limits)
    assert plan_placement(drawn.guests, drawn.hosts, drawn.sets, effort=ENOUGH).moves == ()
    drawn = fleet(*guests, ("other", "c", 4, [1]), limits=limits | {"c": 8})
    placement = plan_placement(drawn.guests, drawn.hosts, drawn.sets, effort=ENOUGH)
    at = drawn.check(placement)
    assert placement.gain_pages == 20
    assert len(placement.moves) == 3
    assert at[0] == at[2]
    assert at[1] == at[3]


def test_overfull_host_only_loses_guests() -> None:
    same = range(10)
    drawn = fleet(("1", "a", 5, same), ("2", "a", 5, [50]), ("3", "b", 5, same), limits={"a": 8, "b": 10})
    placement = plan_placement(drawn.guests, drawn.hosts, drawn.sets, effort=ENOUGH)
    drawn.check(placement)
    assert [(move.domain, move.target) for move in placement.moves] == [("1", "b")]


def test_same_domain_name_excludes_host() -> None:
    same = range(10)
    drawn = fleet(("web", "a", 1, same), ("web", "b", 1, same), limits={"a": 8, "b": 8})
    assert plan_placement(drawn.guests, drawn.hosts, drawn.sets, effort=ENOUGH).moves == ()


def test_pinned_guest_attracts_the_other() -> None:
    same = np.arange(10, 20, dtype=np.uint64)
    hosts = [Host("a", 9, "now"), Host("b", 9, "now")]
    for stays, domain in ((0, "1"), (1, "0")):
        guests = [Guest("0", "a", 1, pinned=stays == 0), Guest("1", "b", 1, pinned=stays == 1)]
        assert [move.domain for move in plan_placement(guests, hosts, [same, same], effort=ENOUGH).moves] == [domain]
    guests = [Guest("0", "a", 1, pinned=True), Guest("1", "b", 1, pinned=True)]
    placement = plan_placement(guests, hosts, [same, same], effort=ENOUGH)
    assert placement.moves == ()
    assert placement.upper_bound_pages == 0


def test_move_limit_keeps_largest_gains() -> None:
    drawn = fleet(
        ("1", "a", 1, range(100, 110)),
        ("2", "b", 1, range(100, 110)),
        ("3", "a", 1, range(200, 230)),
        ("4", "b", 1, range(200, 230)),
        limits={"a": 9, "b": 9},
    )
    gained = [
        plan_placement(drawn.guests, drawn.hosts, drawn.sets, max_moves=most, effort=ENOUGH).gain_pages
        for most in (0, 1, 2, 3)
    ]
    assert gained == [0, 30, 40, 40]


def test_guest_without_gain_stays() -> None:
    drawn = fleet(
        ("1", "a", 1, range(10)), ("2", "b", 1, range(10)), ("3", "b", 1, [70]), limits={"a": 9, "b": 9, "c": 9}
    )
    placement = plan_placement(drawn.guests, drawn.hosts, drawn.sets, effort=ENOUGH)
    assert [move.gain_pages for move in placement.moves] == [10]


def hashes(random: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return random.integers(3, 2**64, count, dtype=np.uint64)


def test_sampled_moves_are_counted_exactly() -> None:
    random = np.random.default_rng(1)
    image, other = hashes(random, 4000), hashes(random, 4000)
    guests = [Guest("1", "a", 5000), Guest("2", "b", 5000), Guest("3", "b", 5000)]
    sets = [np.sort(np.append(one, hashes(random, 500))) for one in (image, image, other)]
    hosts = [Host(name, 20000, "now") for name in "ab"]
    placement = plan_placement(guests, hosts, sets, search_sample=64, effort=ENOUGH)
    assert placement.gain_pages == 4000
    assert placement.gain_error_pages == 0
    assert (placement.sample, placement.search_sample) == (1, 64)


@pytest.mark.parametrize("sample", [2, 16])
def test_sampled_counts_are_scaled(sample: int) -> None:
    random = np.random.default_rng(2)
    image = np.sort(hashes(random, 40_000))
    part = lowest_hashes(image, sample)
    guests, hosts = [Guest("1", "a", 50_000), Guest("2", "b", 50_000)], [Host(name, 100_000, "now") for name in "ab"]
    placement = plan_placement(guests, hosts, [part, part], sample=sample, effort=ENOUGH)
    assert placement.gain_pages == len(part) * sample
    relative = math.sqrt((1 - 1 / sample) / len(part))
    assert placement.gain_error_pages == pytest.approx(placement.gain_pages * relative)
    assert abs(placement.gain_pages - 40_000) < 4 * placement.gain_error_pages


@settings(deadline=None)
@given(st.lists(st.integers(3, 2**64 - 1) | st.integers(2**63 - 5, 2**63 + 5), unique=True), st.integers(0, 16))
def test_lowest_hashes_equal_trace_sample(values: list[int], halvings: int) -> None:
    ordered = np.array(sorted(values), dtype=np.uint64)
    most = sample_threshold(1 << halvings)
    expected = ordered if most is None else ordered[ordered.view(np.int64) < most]
    assert lowest_hashes(ordered, 1 << halvings).tolist() == expected.tolist()


def test_plan_is_deterministic() -> None:
    random = np.random.default_rng(3)
    pool = hashes(random, 200)
    guests = [Guest(str(number), f"h{number % 4}", int(random.integers(1, 5))) for number in range(16)]
    hosts = [Host(f"h{number}", 16, "now") for number in range(4)]
    sets = [np.sort(random.choice(pool, 60, replace=False)) for _ in guests]
    first, second = (plan_placement(guests, hosts, sets, effort=ENOUGH, threads=threads) for threads in (1, 3))
    assert first == second
    assert first.moves
