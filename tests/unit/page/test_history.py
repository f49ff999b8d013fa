from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.page import Page
from samepaged.page.history import thinned
from samepaged.scan.snapshot import HistoryPoint
from tests.support import hosts

START = 1_772_600_400.0
GIB = 1 << 30


def moment(minutes: float, own: int = GIB, inter: int = GIB, merged: int | None = GIB) -> HistoryPoint:
    return HistoryPoint(START + minutes * 60, 10 * GIB, own, inter, GIB, merged)


def drawn(moments: list[HistoryPoint]) -> ET.Element:
    page = Page()(replace(hosts.small(), history=tuple(moments)), hosts.NOW)
    section = ET.fromstring(page.decode()).find(".//section[@id='history']")  # noqa: S314 - it is ours
    assert section is not None
    return section


def paths(root: ET.Element, kind: str) -> list[str]:
    return [one.get("d", "") for one in root.iter("path") if one.get("class") == kind]


def test_one_scan_has_no_chart() -> None:
    root = drawn([moment(0)])
    assert root.find(".//svg") is None
    assert "starts with the second scan" in "".join(root.itertext())


def test_areas_are_stacked() -> None:
    root = drawn([moment(0), moment(15)])
    # The scale ends at 3 GiB and 200 units: 1 GiB of each area.
    assert paths(root, "area duplicate") == ["M0.0 133.3L1000.0 133.3L1000.0 200.0L0.0 200.0Z"]
    assert paths(root, "area shared") == ["M0.0 66.7L1000.0 66.7L1000.0 133.3L0.0 133.3Z"]
    assert paths(root, "area zeros") == ["M0.0 0.0L1000.0 0.0L1000.0 66.7L0.0 66.7Z"]
    assert paths(root, "line") == ["M0.0 133.3L1000.0 133.3"]


def test_chart_has_text_summary() -> None:
    told = "".join(drawn([moment(0), moment(15, own=GIB // 2), moment(30)]).itertext())
    assert "Total sharing in the last 30 min: 2.00 GiB now (20% of the memory), lowest 1.50 GiB at 05:15" in told


def test_time_without_scans_is_gap() -> None:
    moments = [moment(15 * at) for at in (0, 1, 2, 3, 20, 40, 41, 42)]
    assert len(paths(drawn(moments), "area duplicate")) == 3


def test_unknown_ksm_draws_no_line() -> None:
    root = drawn([moment(15 * at, merged=None) for at in range(5)])
    assert paths(root, "line") == []
    assert "dashed" not in "".join(root.itertext())


def test_history_is_limited_to_a_day() -> None:
    told = "".join(drawn([moment(60 * at, own=GIB * (1 + (at == 0))) for at in range(30)]).itertext())
    assert "in the last 23 h" in told
    assert "highest 2.00 GiB" in told


@pytest.mark.parametrize("value", [0, 1, 4096, 5 << 20, 3 << 30, 7 << 40, 1 << 52])
def test_scale_has_few_round_levels(value: int) -> None:
    root = drawn([HistoryPoint(START + at, value, value, 0, 0, None) for at in (0, 60)])
    names = [one.text or "" for one in root.iter("text")]
    lines = [name for name in names if re.fullmatch(r"[\d.e+]+ [KMGT]iB", name)]
    assert 1 <= len(lines) <= 6


@pytest.mark.parametrize("seconds", [1, 90, 3600, 5 * 3600, 86399])
def test_tick_labels_fit(seconds: int) -> None:
    root = drawn([HistoryPoint(START + at, GIB, 1, 1, 1, None) for at in (0, seconds)])
    times = [one.text for one in root.iter("text") if re.fullmatch(r"\d\d:\d\d", one.text or "")]
    assert len(times) <= 7


moments = st.lists(
    st.builds(
        HistoryPoint,
        st.floats(0, 86400),
        *(st.integers(0, 1 << 45) for _ in range(4)),
        st.none() | st.integers(0, 1 << 45),
    ),
    min_size=1,
    max_size=400,
)
in_order = moments.map(lambda found: sorted(found, key=lambda one: one.ended_at))


@given(in_order, st.integers(1, 50))
def test_thinning_keeps_drops_and_last_scan(found: list[HistoryPoint], most: int) -> None:
    kept = thinned(found, most)
    assert len(kept) <= most + 1
    assert kept[-1] is found[-1]
    assert [one.ended_at for one in kept] == sorted(one.ended_at for one in kept)
    assert min(one.self_sharing + one.inter_sharing for one in kept) == min(
        one.self_sharing + one.inter_sharing for one in found
    )


@given(moments)
def test_any_history_can_be_drawn(found: list[HistoryPoint]) -> None:
    for one in drawn(found).iter("path"):
        assert "nan" not in one.get("d", "")
