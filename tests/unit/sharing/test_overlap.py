"""The merge and both methods to count pairs, at any threshold between the methods."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.sharing import overlap
from tests.unit.sharing.oracle import hash_values

# Sets of few hashes, so that many sets have hashes in common.
families = st.lists(hash_values, min_size=1, max_size=12, unique=True).flatmap(
    lambda values: st.lists(st.sets(st.sampled_from(values)), min_size=1, max_size=20)
)


def overlap_of(
    family: list[set[int]],
    groups: list[int] | None = None,
    *,
    threads: int = 1,
    part_size: int = overlap.PART_HASHES,
    long_run: int | None = None,
) -> overlap.Overlap:
    arrays = [np.array(sorted(values), dtype=np.uint64) for values in family]
    return overlap.overlap(arrays, groups or [0] * len(family), threads=threads, part_size=part_size, long_run=long_run)


def expected_pairs(family: list[set[int]]) -> dict[tuple[int, int], int]:
    found = {(a, b): len(family[a] & family[b]) for a, b in combinations(range(len(family)), 2)}
    return {pair: count for pair, count in found.items() if count}


def listed(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> dict[tuple[int, int], int]:
    return {(a, b): int(counts[a, b]) for a, b in np.argwhere(counts).tolist()}


@given(families, st.sampled_from([1, 2, 7, 1 << 18]), st.sampled_from([1, 3]))
def test_part_size_and_threads_change_nothing(family: list[set[int]], part_size: int, threads: int) -> None:
    found = overlap_of(family, part_size=part_size, threads=threads)
    assert found.across == sum(map(len, family)) - len(set().union(*family))
    assert listed(found.pairs) == expected_pairs(family)


@given(families, st.integers(2, 21), st.sampled_from([1, 1 << 21]))
def test_pair_counting_methods_agree(family: list[set[int]], long_run: int, cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "TABLE_CELLS", cells)
        assert listed(overlap_of(family, long_run=long_run).pairs) == expected_pairs(family)


@pytest.mark.parametrize("cells", [80 * 128, 1 << 21])
@pytest.mark.parametrize("long_run", [2, 40, 81])
def test_bit_tables_of_several_sizes_agree(monkeypatch: pytest.MonkeyPatch, long_run: int, cells: int) -> None:
    monkeypatch.setattr(overlap, "TABLE_CELLS", cells)
    # Small hashes, so that all of them are in one part.
    family = [set(range(3, 703 - 5 * number)) for number in range(80)]
    found = listed(overlap_of(family, long_run=long_run).pairs)
    assert found == {(a, b): 700 - 5 * b for a, b in combinations(range(80), 2)}


@given(families, st.data())
def test_groups_are_counted_separately(family: list[set[int]], data: st.DataObject) -> None:
    groups = sorted(data.draw(st.lists(st.integers(0, 3), min_size=len(family), max_size=len(family))))
    found = overlap_of(family, groups)
    for group in range(max(groups) + 1):
        sets = [values for values, its in zip(family, groups, strict=True) if its == group]
        assert found.within[group] == sum(map(len, sets)) - len(set().union(*sets))
    for number, values in enumerate(family):
        kin = [other for at, other in enumerate(family) if groups[at] == groups[number] and at != number]
        assert found.in_group[number] == len(values & set().union(*kin))


@pytest.mark.parametrize("base", [0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 2**64 - 1, 3])
def test_single_bit_difference_is_distinct(base: int) -> None:
    near = {base ^ (1 << bit) for bit in range(64)}
    family = [{base}, near, {base} | near, set()]
    for part_size in (1, 1 << 18):
        assert listed(overlap_of(family, part_size=part_size).pairs) == {(0, 2): 1, (1, 2): 64}


def test_zero_and_one_set_have_no_overlap() -> None:
    for family in ([], [{3, 4}]):
        found = overlap_of(family)
        assert found.across == 0
        assert found.pairs.shape == (len(family), len(family))
        assert not found.in_group.any()
