"""Groups of guests and stability against the definitions on bytes."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.study import groups as groups_module
from samepaged.analysis.study.groups import groups_of_each_size
from samepaged.analysis.study.sampling import all_groups, group_sizes, number_of_groups, sample_groups
from samepaged.analysis.study.stability import stability
from tests.unit.analysis.study.memory import Memory, histories, lasting
from tests.unit.sharing import oracle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.unit.sharing.oracle import Pages

    Histories = Mapping[str, Sequence[Pages]]

P, Q, R = oracle.CONTENTS[:3]


def possible(found: Histories, size: int) -> list[tuple[Pages, ...]]:
    return [group for names in combinations(sorted(found), size) for group in product(*(found[name] for name in names))]


@settings(max_examples=50)
@given(histories)
def test_few_groups_are_exact(found: Histories) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups_module, "_MAX_GROUPS", 1000)
        memory = Memory(found)
        groups = groups_of_each_size(memory.guests, memory, np.random.default_rng(0))
    assert [group.guests for group in groups] == list(range(2, len(found) + 1))
    for group in groups:
        all_of_them = possible(found, group.guests)
        assert group.exact
        assert group.groups == len(all_of_them)
        inter = [oracle.inter_sharing(one) for one in all_of_them]
        own = [sum(map(oracle.self_sharing, one)) for one in all_of_them]
        size = [max(1, sum(map(len, one))) for one in all_of_them]
        assert [group.inter_pages.min, group.inter_pages.max] == [min(inter), max(inter)]
        assert group.inter_pages.avg == pytest.approx(np.mean(inter))
        assert group.self_pages == pytest.approx(np.mean(own))
        total = [(a + b) / of for a, b, of in zip(own, inter, size, strict=True)]
        assert group.total_ratio.avg == pytest.approx(np.mean(total))
        parts = [a / (a + b) for a, b in zip(inter, own, strict=True) if a + b]
        assert group.inter_over_total == (pytest.approx(np.mean(parts)) if parts else None)


@settings(max_examples=50)
@given(histories, st.integers(0, 9))
def test_many_groups_are_sampled(found: Histories, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups_module, "_MAX_GROUPS", 5)
        memory = Memory(found)
        groups = groups_of_each_size(memory.guests, memory, np.random.default_rng(seed))
    for group in groups:
        inter = [oracle.inter_sharing(one) for one in possible(found, group.guests)]
        assert group.possible == len(inter)
        assert group.groups == min(5, len(inter))
        assert {group.inter_pages.min, group.inter_pages.max} <= set(inter)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 5))
def test_number_of_groups_is_exact(traces: list[int], size: int) -> None:
    groups = list(all_groups(traces, size))
    assert number_of_groups(traces, size) == len(groups) == len(set(groups))


def test_group_sampling_is_uniform() -> None:
    traces, draws = [1, 2, 5, 3], 20_000
    every = Counter(tuple(guest for guest, _ in group) for group in all_groups(traces, 2))
    drawn = Counter(map(tuple, sample_groups(traces, 2, draws, np.random.default_rng(1))))
    assert drawn.keys() == every.keys()
    for group, count in every.items():
        assert drawn[group] / draws == pytest.approx(count / every.total(), abs=0.015)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_sampled_group_has_its_size(traces: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(traces)))
    for group in sample_groups(traces, size, 3, np.random.default_rng(0)):
        assert len(group) == size
        assert group == sorted(set(group))


def test_group_sizes_include_small_and_largest() -> None:
    assert group_sizes(1) == []
    assert group_sizes(2) == [2]
    assert group_sizes(7) == [2, 3, 4, 5, 6, 7]
    assert group_sizes(9) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert group_sizes(200) == [2, 3, 4, 5, 6, 7, 8, 12, 18, 27, 40, 60, 90, 135, 200]


@given(st.lists(oracle.memories, min_size=1, max_size=6))
def test_stability_counts_kept_contents(history: list[Pages]) -> None:
    memory = Memory({"a": history})
    found = {one.lag: one for one in stability(memory.guests, memory, np.random.default_rng(0))}
    last = len(history) - 1
    bases = sorted({0, last // 4, last // 2} - {last})
    assert set(found) == {lag for base in bases for lag in (1, 2, 4) if base + lag <= last}
    for lag, one in found.items():
        both = [(history[base], history[base + lag]) for base in bases if base + lag <= last]
        assert one.pairs == len(both)
        assert one.seconds == 60 * lag
        told = [(lasting(before, after), before) for before, after in both]
        contents = [kept[0] / len(set(oracle.nonzero(pages))) for kept, pages in told if oracle.nonzero(pages)]
        copies = [kept[1] / oracle.self_sharing(pages) for kept, pages in told if oracle.self_sharing(pages)]
        for spread, values in ((one.content_ratio, contents), (one.sharing_ratio, copies)):
            assert (spread is None) == (not values)
            if spread is not None:
                assert [spread.min, spread.avg, spread.max] == pytest.approx(
                    [min(values), np.mean(values), max(values)]
                )


def test_one_trace_has_no_stability() -> None:
    memory = Memory({"a": [[P]], "b": [[P, P, Q], [P, P, Q]]})
    (found,) = stability(memory.guests, memory, np.random.default_rng(0))
    assert (found.domain, found.lag) == ("b", 1)
    assert found.content_ratio is not None
    assert found.content_ratio.avg == 1


def test_stability_samples_guests() -> None:
    memory = Memory({f"guest-{number}": [[P], [P]] for number in range(50)})
    found = stability(memory.guests, memory, np.random.default_rng(0))
    assert len({one.domain for one in found}) == len(found) == 32
