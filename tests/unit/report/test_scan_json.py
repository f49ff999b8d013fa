from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.drift.ledger import PausedTime
from samepaged.errors import Reason
from samepaged.report.scan_json import document
from samepaged.scan.results import SkippedGuest
from samepaged.sharing import GroupSharing, PageSizeSharing, PairSharing
from tests.support.results import AWKWARD_NAMES, STARTED, guest_scan, host_scan, stable_report

# The contract for readers of `scan --json` while "schema" is 1.
OBJECT_KEYS = {
    "schema",
    "page_size",
    "started",
    "duration_seconds",
    "domains",
    "skipped",
    "self_sharing_pages",
    "inter_sharing_pages",
    "total_sharing_pages",
    "groups",
    "pairs",
    "stable",
    "page_sizes",
}
SHARING_KEYS = {"self_sharing_pages", "inter_sharing_pages", "total_sharing_pages"}
DOMAIN_KEYS = {
    "name",
    "uuid",
    "group",
    "memory_pages",
    "absent_pages",
    "swapped_pages",
    "zero_pages",
    "distinct_pages",
    "duplicate_pages",
    "shared_with_others_pages",
    "mode",
    "fallback_reason",
    "fallback_code",
    "device_writes",
    "reader",
    "pauses",
    "pause_seconds",
    "longest_pause_seconds",
}


def test_json_has_every_documented_key() -> None:
    scan = host_scan("a", "b", skipped=(SkippedGuest("c", Reason.NO_PID, "no pid"),), stable=stable_report("a"))
    shown = document(scan)

    assert set(shown) >= OBJECT_KEYS
    assert set(shown["domains"][0]) >= DOMAIN_KEYS
    assert set(shown["skipped"][0]) >= {"name", "reason"}
    assert set(shown["groups"][0]) >= {"name", "inter_sharing_pages"}
    assert set(shown["stable"]) >= SHARING_KEYS
    assert set(shown["page_sizes"][0]) >= {"page_size", "memory_pages", "zero_pages", *SHARING_KEYS}
    assert shown["schema"] == 1


def test_json_has_known_paused_times() -> None:
    shown = document(host_scan("a", "b"), {"a": PausedTime(1.5, 0.0004)})["domains"]
    assert (shown[0]["paused_seconds_total"], shown[0]["paused_ratio"]) == (1.5, 0.0004)
    assert (shown[1]["paused_seconds_total"], shown[1]["paused_ratio"]) == (None, None)


def test_json_values_match_the_scan() -> None:
    scan = host_scan(
        "a",
        "b",
        groups=(GroupSharing("tenant", 180, 40),),
        pairs=(PairSharing(("a", "b"), 40),),
        skipped=(SkippedGuest("c", Reason.NO_PID, "domain c has no pid; start it"),),
    )
    scans = (guest_scan("b"), guest_scan("a", fallback=("busy", "too busy")))
    shown = document(dataclasses.replace(scan, scans=scans))

    assert (shown["page_size"], shown["duration_seconds"]) == (4096, 2.5)
    assert (shown["self_sharing_pages"], shown["inter_sharing_pages"], shown["total_sharing_pages"]) == (180, 40, 220)
    assert shown["groups"] == [{"name": "tenant", "self_sharing_pages": 180, "inter_sharing_pages": 40}]
    assert shown["pairs"] == [{"domains": ["a", "b"], "inter_sharing_pages": 40}]
    assert shown["skipped"] == [
        {"name": "c", "reason": "domain c has no pid; start it", "reason_code": "no_pid", "remedy": None}
    ]
    assert [domain["name"] for domain in shown["domains"]] == ["a", "b"]
    assert [domain["fallback_reason"] for domain in shown["domains"]] == ["too busy", None]
    assert [domain["fallback_code"] for domain in shown["domains"]] == ["busy", None]
    domain = shown["domains"][0]
    states = ("absent", "swapped", "zero", "distinct", "duplicate")
    assert [domain[f"{state}_pages"] for state in states] == [100, 10, 200, 600, 90]
    assert (domain["memory_pages"], domain["shared_with_others_pages"]) == (1000, 50)
    assert (domain["pauses"], domain["pause_seconds"], domain["longest_pause_seconds"]) == (2, 0.05, 0.03125)
    assert (domain["mode"], domain["reader"], domain["bytes_read"]) == ("snapshot", "process", 4096 * 700)


def test_device_writes_are_marked() -> None:
    shown = document(host_scan("a", "b", devices=frozenset({"b"})))

    assert [domain["device_writes"] for domain in shown["domains"]] == [False, True]


def test_unknown_stable_sharing_is_null() -> None:
    shared = {"self_sharing_pages": 90, "inter_sharing_pages": 7, "total_sharing_pages": 97}

    assert document(host_scan("a", "b"))["stable"] is None
    assert document(host_scan("a", "b", stable=stable_report("a", "b")))["stable"] == shared


def test_page_sizes_are_ordered() -> None:
    further = (PageSizeSharing(16384, 500, 50, 30, 4), PageSizeSharing(1024, 8000, 2000, 900, 300))
    shown = document(host_scan("a", "b", page_sizes=further))

    assert shown["page_sizes"] == [
        {
            "page_size": size,
            "memory_pages": memory,
            "zero_pages": zero,
            "self_sharing_pages": own,
            "inter_sharing_pages": inter,
            "total_sharing_pages": own + inter,
        }
        for size, memory, zero, own, inter in (
            (4096, 2000, 400, 180, 40),
            (1024, 8000, 2000, 900, 300),
            (16384, 500, 50, 30, 4),
        )
    ]


def test_start_time_is_rfc3339_utc() -> None:
    shown = document(host_scan())["started"]

    assert shown == "2023-11-14T22:13:20.250Z"
    assert datetime.fromisoformat(shown) == datetime.fromtimestamp(STARTED, UTC)


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_awkward_names_give_valid_json(name: str) -> None:
    scan = host_scan(
        name, groups=(GroupSharing(name, 1, 2),), pairs=(PairSharing((name, name), 1),),
        skipped=(SkippedGuest(name, Reason.READ, f"domain {name} went away"),),
        fallbacks={name: ("layout", f"domain {name} has RAM that was not found")},
    )  # fmt: skip
    # As UTF-8 without escapes: the strictest form of JSON.
    written = json.dumps(document(scan), ensure_ascii=False, allow_nan=False).encode("utf-8")
    read = json.loads(written)

    assert read["domains"][0]["name"] == name.replace("\udcff", "\\udcff")
    assert read["pairs"][0]["domains"][1] == read["groups"][0]["name"] == read["domains"][0]["name"]


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=12))
def test_any_name_gives_json(name: str) -> None:
    written = json.dumps(document(host_scan(name)), ensure_ascii=False).encode("utf-8")

    assert json.loads(written)["domains"][0]["memory_pages"] == 1000
