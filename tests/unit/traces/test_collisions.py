"""Expected collisions against complete enumeration and against random draws."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.traces.collisions import expected_self_collisions, expected_shared_collisions


def thrown(contents: int, bits: int, random: Random) -> set[int]:
    """Draw the hashes of this number of contents."""
    return {random.getrandbits(bits) for _ in range(contents)}


@pytest.mark.parametrize(("contents", "bits"), [(50, 12), (2000, 12), (10_000, 12), (300, 8), (500, 8), (3000, 16)])
def test_self_collisions_match_simulation(contents: int, bits: int) -> None:
    random = Random(contents)
    found = [len(thrown(contents, bits, random)) for _ in range(400)]
    lost = sum(contents - distinct for distinct in found) / len(found)
    expected = sum(expected_self_collisions(distinct, bits) for distinct in found) / len(found)
    assert expected == pytest.approx(lost, rel=0.05, abs=0.1)


@cache
def mean_distinct(contents: int, bits: int) -> float:
    """Return the mean over all assignments of hashes to contents."""
    ways = list(product(range(1 << bits), repeat=contents))
    return sum(len(set(way)) for way in ways) / len(ways)


@pytest.mark.parametrize(("contents", "bits"), [(1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (6, 2), (8, 1)])
def test_expected_hashes_invert_to_contents(contents: int, bits: int) -> None:
    # The function takes integers; between two of them it is nearly linear.
    mean = mean_distinct(contents, bits)
    low = math.floor(mean)
    high = min(low + 1, 1 << bits)
    below, above = low + expected_self_collisions(low, bits), high + expected_self_collisions(high, bits)
    assert below <= contents <= above + 1e-9


@pytest.mark.parametrize(
    ("ours", "theirs", "bits"), [(100, 3000, 12), (2000, 2000, 12), (200, 100, 8), (6000, 900, 16)]
)
def test_chance_hits_between_guests(ours: int, theirs: int, bits: int) -> None:
    random = Random(ours)
    shared = expected = 0.0
    for _ in range(200):
        one, other = thrown(ours, bits, random), thrown(theirs, bits, random)
        shared += len(one & other)
        expected += expected_shared_collisions(len(one), len(other), bits)
    assert expected == pytest.approx(shared, rel=0.05)


@given(st.integers(2, 10**9), st.sampled_from([32, 64]))
def test_few_collisions_are_pairs(distinct: int, bits: int) -> None:
    pairs = distinct * (distinct - 1) / 2 / 2**bits
    assert expected_self_collisions(distinct, bits) >= pairs * (1 - 1e-9)
    if distinct / 2**bits < 1e-3:
        assert expected_self_collisions(distinct, bits) == pytest.approx(pairs, rel=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**20))
def test_more_hashes_have_more_collisions(distinct: int, more: int) -> None:
    larger = min(distinct + more, 2**32)
    assert expected_self_collisions(distinct, 32) <= expected_self_collisions(larger, 32)
    assert expected_shared_collisions(distinct, 1000, 32) <= expected_shared_collisions(larger, 1000, 32)


def test_series_and_logarithm_agree() -> None:
    at = 2**32 // 100
    below, above = expected_self_collisions(at, 32), expected_self_collisions(at + 1, 32)
    assert 0 < above - below < 0.02


def test_collisions_of_an_8_gib_guest() -> None:
    assert expected_self_collisions(2 << 20, 32) == pytest.approx(512, rel=1e-3)
    assert expected_self_collisions(2 << 20, 64) < 1e-6
    assert expected_shared_collisions(2 << 20, 2 << 20, 32) == 1024


def test_saturated_hash_space_is_refused() -> None:
    assert expected_self_collisions(2**32, 32) == math.inf


@pytest.mark.parametrize(("distinct", "bits"), [(-1, 32), (2**32 + 1, 32), (1, 0), (1, 65)])
def test_impossible_values_are_refused(distinct: int, bits: int) -> None:
    with pytest.raises(ValueError, match="hash"):
        expected_self_collisions(distinct, bits)
    with pytest.raises(ValueError, match="hash"):
        expected_shared_collisions(1, distinct, bits)
