from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.ksm import Merging
from samepaged.report.advice import Advice
from samepaged.scan.label_values import OBSTACLES
from samepaged.sharing import GroupSharing
from samepaged.text_layout import columns
from tests.support.results import AWKWARD_NAMES, host_scan, merging

if TYPE_CHECKING:
    from samepaged.scan.results import HostScan

GIB = 1 << 18  # pages


def off() -> Merging:
    return Merging(replace(merging().host, run=0, sharing=0, zero=0))


def worth(scan: HostScan, attainable: int, attended: int) -> HostScan:
    return replace(scan, attainable_pages=attainable, attended_pages=attended)


def test_profitable_ksm_is_recommended_briefly() -> None:
    names = [f"web-{number}" for number in range(5)]
    scan = host_scan(*names, pages=4 * GIB, obstacles={"web-4": "hugetlb"})
    scan = worth(scan, 2 * GIB, 16 * GIB)
    text = Advice.of(scan, off()).text()
    assert len(text.splitlines()) <= 10
    assert "5 guests with 20.0 GiB: merging could save" in text
    # 2 GiB minus 64 bytes for each of 16 GiB / 4 KiB pages
    assert "use KSM. Attainable 2.00 GiB minus 256 MiB of bookkeeping: 1.75 GiB" in text
    assert "KSM is off, has merged nothing; enable it: echo 1 >/sys/kernel/mm/ksm/run" in text
    assert "Most to merge: web-0 (1.80 GiB), web-1 (1.80 GiB), web-2 (1.80 GiB) and 2 more" in text
    assert "Not mergeable: huge pages of hugetlbfs: web-4 (1.80 GiB)" in text
    assert "pages_to_scan=100" in text


def test_unprofitable_ksm_is_not_advised() -> None:
    scan = worth(host_scan("a", pages=GIB), 1000, GIB)
    text = Advice.of(scan, off()).text()
    assert "Advice: do not use KSM." in text
    assert "enable it" not in text
    assert not Advice.of(scan, off()).worth_it


def test_slow_ksm_gets_faster_settings() -> None:
    # 5,000 pages per second: 64 GiB take 56 minutes
    scan = worth(host_scan("a", pages=64 * GIB), 30 * GIB, 64 * GIB)
    text = " ".join(Advice.of(scan, off()).text().split())
    assert "two passes of 56 min to merge" in text
    assert "pages_to_scan=400 would reduce a pass to 15 min" in text


def test_merged_memory_is_ratio_of_potential() -> None:
    scan = host_scan("a", "b")
    assert scan.potential_pages == 180 + 40 + 400
    assert "KSM is on, has merged 440 KiB (18%)" in Advice.of(scan, merging("a", "b")).text()


def test_advice_reports_kernel_without_ksm() -> None:
    advice = Advice.of(host_scan("a"), None)
    assert "This kernel does not support KSM" in advice.text()
    assert advice.document()["ksm"] is None


def test_cross_group_sharing_warns() -> None:
    scan = host_scan("a", "b", groups=(GroupSharing("red", 90, 0), GroupSharing("blue", 90, 10)))
    assert "Warning: 120 KiB is shared across groups" in Advice.of(scan, off()).text()
    assert Advice.of(scan, off()).document()["across_groups_pages"] == 30
    assert "Warning" not in Advice.of(host_scan("a", "b"), off()).text()


def test_advice_without_guests() -> None:
    assert Advice.of(host_scan(), None).text() == "The scan did not include any guest; advice is not possible."


def test_json_has_counters_and_obstacles() -> None:
    scan = worth(host_scan("a", "b", obstacles={"b": "shared"}), 300, 1000)
    found = Advice.of(scan, merging("a")).document()
    assert found["schema"] == 1
    assert found["expected_profit_bytes"] == 300 * 4096 - 1000 * 64
    assert found["domains"] == [
        {"name": "a", "potential_pages": 450, "merged_pages": 55, "obstacle": None},
        {"name": "b", "potential_pages": 450, "merged_pages": None, "obstacle": "shared"},
    ]
    assert found["ksm"]["running"] is True


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_each_obstacle_has_a_description(obstacle: str) -> None:
    (line,) = (
        line
        for line in Advice.of(host_scan("a", obstacles={"a": obstacle}), None).text().splitlines()
        if line.startswith("Not mergeable")
    )
    assert re.fullmatch(r"Not mergeable: [^:_]+: a \(1.76 MiB\)", line)


@given(
    st.lists(st.text(max_size=60) | st.sampled_from(AWKWARD_NAMES), max_size=6, unique=True), st.integers(0, 1 << 40)
)
def test_any_names_fit_80_columns(names: list[str], pages: int) -> None:
    scan = host_scan(*names, pages=pages, obstacles=dict.fromkeys(names[:2], "shared"))
    advice = Advice.of(scan, merging(*names))
    assert all(columns(line) <= 80 and line.isprintable() for line in advice.text().splitlines())
    json.dumps(advice.document()).encode()
