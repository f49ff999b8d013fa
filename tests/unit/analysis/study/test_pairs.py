"""Inter-VM sharing of pairs against the definitions on bytes."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.study import pairs as pairs_module
from samepaged.analysis.study.pairs import PairSharing, compare_pairs
from samepaged.analysis.study.sampling import are_exact_pairs, sample_tuples
from tests.unit.analysis.study.memory import Memory, histories, with_zeros
from tests.unit.sharing import oracle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from samepaged.analysis.study.min_avg_max import MinAvgMax
    from tests.unit.sharing.oracle import Pages

    Histories = Mapping[str, Sequence[Pages]]

P, Q, R = oracle.CONTENTS[:3]


def studied(found: Histories, most: int = 300, seed: int = 0) -> dict[tuple[str, str], PairSharing]:
    memory = Memory(found)
    return {
        pair.domains: pair
        for pair in compare_pairs(memory.guests, memory, max_pairs=most, random=np.random.default_rng(seed))
    }


def expected(first: Sequence[Pages], second: Sequence[Pages]) -> list[int]:
    """Return the inter-VM sharing of every pair of traces."""
    return [oracle.inter_sharing(both) for both in product(first, second)]


def close(found: MinAvgMax, values: Sequence[float]) -> bool:
    return [found.min, found.avg, found.max] == pytest.approx([min(values), sum(values) / len(values), max(values)])


@settings(max_examples=50)
@given(histories)
def test_few_trace_pairs_are_exact(found: Histories) -> None:
    pairs = studied(found)
    assert list(pairs) == list(combinations(sorted(found), 2))
    for (a, b), pair in pairs.items():
        both = list(product(found[a], found[b]))
        inter = expected(found[a], found[b])
        own = [sum(map(oracle.self_sharing, one)) for one in both]
        memory = [max(1, sum(map(len, one))) for one in both]
        assert pair.exact
        assert pair.trace_pairs == len(both)
        assert close(pair.inter_pages, inter)
        assert close(pair.inter_ratio, [one / of for one, of in zip(inter, memory, strict=True)])
        assert pair.self_pages == pytest.approx(np.mean(own))
        assert pair.memory_pages == pytest.approx(np.mean([sum(map(len, one)) for one in both]))
        parts = [mine / (mine + one) for mine, one in zip(own, inter, strict=True) if mine + one]
        assert pair.self_over_total == (pytest.approx(np.mean(parts)) if parts else None)
        zeros = [with_zeros(one) for one in both]
        assert pair.self_with_zeros == pytest.approx(np.mean([one for one, _ in zeros]))
        assert pair.inter_with_zeros == pytest.approx(np.mean([one for _, one in zeros]))


@settings(max_examples=50)
@given(histories, st.integers(1, 4))
def test_block_size_changes_nothing(found: Histories, traces: int) -> None:
    whole = studied(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs_module, "_BLOCK_TRACES", traces)
        blocks = studied(found)
        patch.setattr(pairs_module, "_BLOCK_ROWS", 1)
        rows = studied(found)
    for name, pair in whole.items():
        for other in (blocks[name], rows[name]):
            assert other.trace_pairs == pair.trace_pairs
            assert other.inter_pages == pair.inter_pages
            assert other.self_over_total == (
                None if pair.self_over_total is None else pytest.approx(pair.self_over_total)
            )


@settings(max_examples=50)
@given(histories, st.integers(1, 5), st.integers(0, 9))
def test_many_trace_pairs_are_sampled(found: Histories, most: int, seed: int) -> None:
    for (a, b), pair in studied(found, most, seed).items():
        inter = expected(found[a], found[b])
        assert pair.exact == (len(inter) <= most)
        assert pair.trace_pairs == min(most, len(inter))
        assert {pair.inter_pages.min, pair.inter_pages.max} <= set(inter)
        assert pair.inter_pages.min <= pair.inter_pages.avg <= pair.inter_pages.max
        if pair.exact:
            assert close(pair.inter_pages, inter)


def test_seed_determines_the_sample() -> None:
    found = {name: [[P] * number + [Q] * (number % 2) for number in range(1, 9)] for name in "abc"}
    assert studied(found, 5, 1) == studied(found, 5, 1)
    assert studied(found, 5, 1) != studied(found, 5, 2)


def test_tuples_give_random_trace_pairs() -> None:
    drawn = sample_tuples([2, 3, 1], 6000, np.random.default_rng(3))
    counts = {(a, b): 0 for a in range(2) for b in range(3)}
    for a, b, _ in drawn.tolist():
        counts[a, b] += 1
    assert all(900 < count < 1100 for count in counts.values()), counts


def test_traces_are_sampled_evenly() -> None:
    drawn = sample_tuples([4, 7], 8, np.random.default_rng(0))
    assert sorted(drawn[:4, 0].tolist()) == sorted(drawn[4:, 0].tolist()) == [0, 1, 2, 3]
    assert sorted(drawn[:7, 1].tolist()) == list(range(7))


def test_exact_and_sampled_pairs_coexist() -> None:
    assert are_exact_pairs([1, 20, 20], 300).tolist() == [
        [False, True, True],
        [False, False, False],
        [False, False, False],
    ]
    history = [[P, Q, R][: 1 + number % 3] for number in range(20)]
    pairs = studied({"a": [[P, Q, R]], "b": history, "c": history})
    assert [(pair.exact, pair.trace_pairs) for pair in pairs.values()] == [(True, 20), (True, 20), (False, 300)]
    assert close(pairs["a", "b"].inter_pages, expected([[P, Q, R]], history))


def test_sampled_intersections_are_scaled() -> None:
    contents = list(oracle.CONTENTS)
    memory = Memory({"a": [contents], "b": [contents]}, sample=2)
    (pair,) = compare_pairs(memory.guests, memory, max_pairs=1, random=np.random.default_rng(0))
    rows = len(memory.hashes(memory.guests[0].traces[0]))
    assert 0 < rows < len(contents)
    assert pair.inter_pages.avg == 2 * rows


def test_one_guest_has_no_pairs() -> None:
    assert studied({"a": [[P]]}) == {}
