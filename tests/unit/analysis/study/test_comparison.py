"""Comparison of two sets of traces: the reduction of sharing against the definitions on bytes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.study import comparison as comparison_module
from samepaged.analysis.study.comparison import KINDS, Comparison, compare
from samepaged.errors import TraceError
from tests.unit.analysis.study.memory import Memory
from tests.unit.sharing import oracle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.unit.sharing.oracle import Pages

    Histories = Mapping[str, Sequence[Pages]]

P, Q, R, S = oracle.CONTENTS[:4]


def compared(first: Histories, second: Histories, others: Histories | None = None, host: str = "kvm-1") -> Comparison:
    """Compare the guests of `first` on `host` with those of `second` on kvm-2, with `others` on kvm-3."""
    memories = Memory(first, host=host), Memory(second, host="kvm-2"), Memory(others or {}, host="kvm-3")
    both = Memory({})
    for number, memory in enumerate(memories):
        # With the same path in both sets there would be only one trace.
        memory.files = [replace(file, path=f"{number}/{file.path}") for file in memory.files]
        both.traces_by_path |= {f"{number}/{path}": trace for path, trace in memory.traces_by_path.items()}

    def reader() -> AbstractContextManager[Memory]:
        return nullcontext(both)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison_module, "HashReader", reader)
        patch.setattr(comparison_module, "_GROUPS", 1000)
        return compare(("A", "B"), (memories[0].files, memories[1].files + memories[2].files))


def sharing(groups: Sequence[Sequence[Pages]]) -> dict[str, list[int]]:
    own = [sum(map(oracle.self_sharing, group)) for group in groups]
    inter = [oracle.inter_sharing(group) for group in groups]
    return {"total": [a + b for a, b in zip(own, inter, strict=True)], "self": own, "inter": inter}


# Two guests have traces in both sets, so that there is a group to compare.
_traces = st.lists(oracle.memories, min_size=1, max_size=2)
sets = st.fixed_dictionaries({"a": _traces, "b": _traces}, optional={"c": _traces, "d": _traces})


@settings(max_examples=50)
@given(sets, sets)
def test_common_guests_are_compared(first: Histories, second: Histories) -> None:
    both = sorted(first.keys() & second.keys())
    found = compared(first, second)
    assert found.size == len(both)
    assert not found.of_traces
    assert list(found.left_out) == sorted(first.keys() ^ second.keys())
    groups = [list(product(*(one[name] for name in both))) for one in (first, second)]
    told = [sharing(one) for one in groups]
    for kind, reduction in found.reduction.items():
        before, after = told[0][kind], told[1][kind]
        assert found.sets[0].sharing[kind].avg == pytest.approx(sum(before) / len(before))
        assert found.sets[1].sharing[kind].max == max(after)
        if not sum(before):
            assert reduction is None
            continue
        assert reduction is not None
        average = 100 * (1 - sum(after) / len(after) / (sum(before) / len(before)))
        assert reduction.avg == pytest.approx(average)
        if not found.less_one:
            every = [100 * (1 - b / a) for a in before if a for b in after]
            assert reduction.min == pytest.approx(min([*every, average]))
            assert reduction.max == pytest.approx(max([*every, average]))


def test_traces_of_one_guest_act_as_guests() -> None:
    without = [[P, Q, R, R]] * 4
    randomised = [[P, Q, R], [P, Q, R, R], [P, Q, S, S], [P, S]]
    found = compared({"vm": without}, {"vm": randomised})
    assert (found.size, found.of_traces, found.less_one) == (4, True, True)
    assert found.sets[0].sharing["self"].avg == 4
    assert found.sets[0].sharing["inter"].avg == 9
    assert found.sets[1].sharing["self"].avg == 2
    assert found.sets[1].sharing["inter"].avg == 7
    reduction = found.reduction
    assert reduction["total"] is not None
    assert reduction["total"].avg == pytest.approx(100 * (1 - 9 / 13))
    assert reduction["self"] is not None
    assert reduction["self"].avg == pytest.approx(50)
    # Without one of the four, self-sharing goes from 3 to 1 or 2.
    assert [reduction["self"].min, reduction["self"].max] == pytest.approx([100 / 3, 200 / 3])


def test_differently_named_guests_compare_by_group() -> None:
    first = {"off-1": [[P, P]], "off-2": [[P, P]], "off-3": [[P, P]]}
    found = compared(first, {"on-1": [[P]], "on-2": [[P]]})
    assert (found.size, found.left_out, found.in_common) == (2, (), False)
    assert "do not have a common guest" in found.table().note
    assert [one.groups for one in found.sets] == [3, 1]
    assert found.sets[0].sharing["inter"].avg == found.sets[1].sharing["inter"].avg == 1
    assert found.reduction["self"] is not None
    assert found.reduction["self"].avg == 100


def test_single_guest_needs_a_counterpart() -> None:
    alone, both = {"a": [[P, P], [P, P]]}, {"a": [[P, P], [P, P]], "b": [[Q] * 10]}
    for found in (compared(alone, both), compared(both, alone)):
        assert (found.size, found.of_traces, found.in_common, found.left_out) == (2, True, True, ("b",))
        assert {kind: spread and spread.avg for kind, spread in found.reduction.items()} == dict.fromkeys(KINDS, 0)
        assert "only one set has them: b." in found.table().note


def test_one_guest_against_several_is_refused() -> None:
    for sets in (({"a": [[P]]}, {"b": [[P]], "c": [[P]]}), ({"b": [[P]], "c": [[P]]}, {"a": [[P]]})):
        with pytest.raises(TraceError, match=r"B: does not share a guest with A, .*compare traces of the same guests"):
            compared(*sets)


def test_single_guests_may_differ_in_name() -> None:
    found = compared({"off": [[P]] * 3}, {"on": [[P], [Q], [R]]})
    assert (found.size, found.of_traces, found.in_common) == (3, True, False)
    assert [one.sharing["inter"].avg for one in found.sets] == [2, 0]


def test_guests_match_by_host_and_domain() -> None:
    first = {"a": [[P, P]], "b": [[P, P]]}
    # The names are kvm-2/a and kvm-2/b, because other guests have the names a and b.
    found = compared(first, {"a": [[P]], "b": [[P]]}, others={"a": [[Q] * 9], "b": [[Q] * 9]}, host="kvm-2")
    assert found.left_out == ("kvm-3/a", "kvm-3/b")
    assert [one.sharing["self"].avg for one in found.sets] == [2, 0]


def test_ambiguous_domain_is_not_matched() -> None:
    several = compared({"a": [[P]], "b": [[P]], "c": [[P]]}, {"a": [[P]], "b": [[P]], "c": [[P]]}, others={"a": [[P]]})
    assert several.left_out == ("a", "kvm-2/a", "kvm-3/a")
    assert several.size == 2


def test_zero_sharing_has_no_reduction() -> None:
    found = compared({"a": [[P]], "b": [[Q]]}, {"a": [[P, P]], "b": [[P]]})
    assert found.reduction == {"total": None, "self": None, "inter": None}
    assert [row[3] for row in found.table().rows] == ["-", "-", "-"]


def test_incompatible_sets_are_refused() -> None:
    first, second = Memory({"a": [[P]]}), Memory({"a": [[P]]}, sample=2)
    with pytest.raises(TraceError, match=r"B: has traces of page size 4096, hash bits 64 and sample 2, A of .*compare"):
        compare(("A", "B"), (first.files, second.files))
