from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.placement import contents
from samepaged.analysis.placement.contents import Incidence, incidence_of, shared_contents

hash_values = st.integers(3, 2**64 - 1) | st.integers(3, 40) | st.integers(2**63 - 20, 2**63 + 20)
owner_sets = st.lists(st.frozensets(hash_values, max_size=30), max_size=9)


def classes_of(incidence: Incidence) -> dict[tuple[int, ...], int]:
    cuts = zip(incidence.starts[:-1], incidence.starts[1:], strict=True)
    owners = [tuple(incidence.guests[start:end].tolist()) for start, end in cuts]
    assert len(set(owners)) == len(owners)
    return dict(zip(owners, incidence.weights.tolist(), strict=True))


def expected(sets: list[frozenset[int]]) -> dict[tuple[int, ...], int]:
    contents = frozenset().union(*sets)
    owners = Counter(tuple(n for n, one in enumerate(sets) if content in one) for content in contents)
    return {who: count for who, count in owners.items() if len(who) > 1}


def arrays(sets: list[frozenset[int]]) -> list[np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    return [np.array(sorted(one), dtype=np.uint64) for one in sets]


@settings(max_examples=50, deadline=None)
@given(owner_sets, st.integers(1, 40), st.integers(1, 3))
def test_equal_guest_sets_are_one_class(sets: list[frozenset[int]], part_size: int, threads: int) -> None:
    found = shared_contents(arrays(sets), part_size=part_size, threads=threads)
    assert classes_of(found) == expected(sets)
    whole = shared_contents(arrays(sets), threads=1)
    assert found.guests.tolist() == whole.guests.tolist()
    assert found.weights.tolist() == whole.weights.tolist()


@settings(max_examples=30, deadline=None)
@given(owner_sets)
def test_classes_of_parts_are_merged(sets: list[frozenset[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "MAX_ENTRIES", 1)
        found = shared_contents(arrays(sets), part_size=2, threads=2)
    assert classes_of(found) == expected(sets)


def test_selected_classes_keep_guests_and_weights() -> None:
    incidence = incidence_of([((0, 1), 5), ((1, 2, 3), 7), ((0, 3), 9)])
    assert classes_of(incidence) == {(0, 1): 5, (1, 2, 3): 7, (0, 3): 9}
    assert classes_of(incidence.select(slice(1, None))) == {(1, 2, 3): 7, (0, 3): 9}
    assert incidence.class_of_entries().tolist() == [0, 0, 1, 1, 1, 2, 2]
