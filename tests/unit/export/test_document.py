from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import Reason
from samepaged.export.document import document
from samepaged.export.snapshot import Skipped
from samepaged.sharing import GroupSharing, PairSharing
from tests.unit.export.builders import AWKWARD_NAMES, STARTED, guest_scan, host_scan

# The contract: what readers of `scan --json` may rely on for as long as "schema" is 1.
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
}
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
    "reader",
    "pauses",
    "pause_seconds",
    "longest_pause_seconds",
}


def test_every_key_of_the_contract_is_there() -> None:
    scan = host_scan("a", "b", skipped=(Skipped("c", Reason.NO_PID, "no pid"),))
    shown = document(scan)

    assert set(shown) >= OBJECT_KEYS
    assert set(shown["domains"][0]) >= DOMAIN_KEYS
    assert set(shown["skipped"][0]) >= {"name", "reason"}
    assert set(shown["groups"][0]) >= {"name", "inter_sharing_pages"}
    assert shown["schema"] == 1


def test_the_values_are_those_of_the_scan() -> None:
    scan = host_scan(
        "a",
        "b",
        groups=(GroupSharing("tenant", 180, 40),),
        pairs=(PairSharing(("a", "b"), 40),),
        skipped=(Skipped("c", Reason.NO_PID, "domain c has no pid; start it"),),
    )
    shown = document(dataclasses.replace(scan, scans=(guest_scan("b"), guest_scan("a", fallback_reason="too busy"))))

    assert (shown["page_size"], shown["duration_seconds"]) == (4096, 2.5)
    assert (shown["self_sharing_pages"], shown["inter_sharing_pages"], shown["total_sharing_pages"]) == (180, 40, 220)
    assert shown["groups"] == [{"name": "tenant", "self_sharing_pages": 180, "inter_sharing_pages": 40}]
    assert shown["pairs"] == [{"domains": ["a", "b"], "inter_sharing_pages": 40}]
    assert shown["skipped"] == [{"name": "c", "reason": "domain c has no pid; start it", "reason_code": "no_pid"}]
    assert [domain["name"] for domain in shown["domains"]] == ["a", "b"]
    assert [domain["fallback_reason"] for domain in shown["domains"]] == ["too busy", None]
    domain = shown["domains"][0]
    states = ("absent", "swapped", "zero", "distinct", "duplicate")
    assert [domain[f"{state}_pages"] for state in states] == [100, 10, 200, 600, 90]
    assert (domain["memory_pages"], domain["shared_with_others_pages"]) == (1000, 50)
    assert (domain["pauses"], domain["pause_seconds"], domain["longest_pause_seconds"]) == (2, 0.05, 0.03125)
    assert (domain["mode"], domain["reader"], domain["bytes_read"]) == ("snapshot", "process", 4096 * 700)


def test_started_is_rfc_3339_in_utc() -> None:
    shown = document(host_scan())["started"]

    assert shown == "2023-11-14T22:13:20.250Z"
    assert datetime.fromisoformat(shown) == datetime.fromtimestamp(STARTED, UTC)


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_an_awkward_name_gives_json_that_every_parser_takes(name: str) -> None:
    scan = host_scan(
        name, groups=(GroupSharing(name, 1, 2),), pairs=(PairSharing((name, name), 1),),
        skipped=(Skipped(name, Reason.READ, f"domain {name} went away"),),
    )  # fmt: skip
    # As bytes of UTF-8 with nothing escaped: the strictest way to write JSON.
    written = json.dumps(document(scan), ensure_ascii=False, allow_nan=False).encode("utf-8")
    read = json.loads(written)

    assert read["domains"][0]["name"] == name.replace("\udcff", "\\udcff")
    assert read["pairs"][0]["domains"][1] == read["groups"][0]["name"] == read["domains"][0]["name"]


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=12))
def test_any_name_gives_json(name: str) -> None:
    written = json.dumps(document(host_scan(name)), ensure_ascii=False).encode("utf-8")

    assert json.loads(written)["domains"][0]["memory_pages"] == 1000
