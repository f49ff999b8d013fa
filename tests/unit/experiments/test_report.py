"""The tables of docs/analysis/study.md from the output of `samepaged study` and `compare`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments import tables
from experiments.cell_run import FieldError
from experiments.contents import RepeatedContent, filled_pages, most_repeated_contents
from experiments.matrix import MATRIX, SETUPS
from experiments.report import PAGE, fill_tables, labels
from samepaged.memory.hashing import best_hasher
from tests.support.traces import trace

MIB = 256  # pages


def spread(low: float, avg: float, high: float) -> dict[str, float]:
    return {"min": low, "avg": avg, "max": high}


def guest(name: str, own: float, *, memory: int = 1024 * MIB) -> dict[str, Any]:
    return {
        "domain": name,
        "traces": 2,
        "self_sharing_pages": spread(own, own, own),
        "self_sharing_ratio": spread(own / memory / 2, own / memory, own / memory * 2),
        "memory_pages": spread(memory, memory, memory),
        "distinct_pages": spread(3 * own, 3 * own, 3 * own),
    }


def pair(first: str, second: str, *, own: float, common: float) -> dict[str, Any]:
    return {
        "domains": [first, second],
        "trace_pairs": 4,
        "inter_sharing_pages": spread(common / 2, common, common * 2),
        "inter_sharing_ratio": spread(common / 20_000, common / 10_000, common / 5_000),
        "self_sharing_pages": own,
        "self_over_total_ratio": own / (own + common),
    }


def rows(table: str) -> dict[str, list[str]]:
    """Return the cells of each row by its first column."""
    lines = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return {line[0]: line[1:] for line in lines[2:]}


def test_compile_table_with_and_without_zero_pages() -> None:
    guests = [guest("a", 150 * MIB, memory=650 * MIB), guest("b", 150 * MIB, memory=650 * MIB)]
    study = {"page_size": 4096, "pairs": [pair("a", "b", own=300 * MIB, common=100 * MIB)], "domains": guests}
    found = rows(tables.kernels(study))
    assert found["without zero pages"][:4] == ["400.0", "300.0", "100.0", "75.0 %"]
    assert found["with zero pages"][:4] == ["500.0", "400.0", "100.0", "80.0 %"]


def test_self_sharing_by_setup() -> None:
    study = {
        "page_size": 4096,
        "domains": [guest("bookworm-i386-plain", 64 * MIB)],
        "platforms": {
            "self_sharing": [
                {
                    "platform": "bookworm-i386",
                    "setup": "plain",
                    "self_sharing_pages": 64 * MIB,
                    "self_sharing_ratio": 64 / 1024,
                }
            ]
        },
    }
    assert rows(tables.by_setup(study, SETUPS))["bookworm-i386"] == ["64.0 (6.2 %; 25.0 %)", "-", "-"]


def test_platform_pairs_table() -> None:
    told = {"inter_sharing_pages": 10 * MIB, "self_over_total_ratio": 0.9, "setup": "server"}
    study = {"page_size": 4096, "platforms": {"pairs": [{"platforms": ["p", "q"], **told}]}}
    assert rows(tables.pairs(study, SETUPS))["p / q"] == ["-", "10.0 (90.0 %)", "-"]


def test_pairs_are_sorted() -> None:
    pairs = [pair("a", "b", own=1, common=10), pair("a", "c", own=1, common=30), pair("b", "c", own=1, common=20)]
    assert list(rows(tables.inter({"page_size": 4096, "pairs": pairs}))) == ["a / c", "b / c", "a / b"]


def test_guest_course_over_traces() -> None:
    found = rows(tables.course({"page_size": 4096, "domains": [guest("one", 128 * MIB)]}))
    assert found["one"] == ["2", "6.2 %", "12.5 %", "25.0 %", "128.0", "512.0"]


def test_page_sizes_are_compared_by_bytes() -> None:
    study = {
        "page_size": 4096,
        "page_sizes": [
            {"domain": "one", "page_size": 2048, "self_sharing_pages": 1024},
            {"domain": "one", "page_size": 4096, "self_sharing_pages": 256},
        ],
    }
    found = rows(tables.page_sizes(study, ["one", "another"]))
    assert found == {"2 KiB": ["2", "2.0 (2.00)"], "4 KiB": ["1", "1.0 (1.00)"]}


def test_groups_table_has_inter_ratio() -> None:
    told = {
        "guests": 3,
        "groups": 40,
        "possible_groups": 1000,
        "total_sharing_ratio": spread(0, 0.2, 1),
        "inter_sharing_ratio": spread(0, 0.05, 1),
        "inter_over_total_ratio": None,
    }
    assert rows(tables.groups({"groups": [told]}))["3"] == ["40 of 1,000", "20.0 %", "5.0 %", "-"]
    found = rows(tables.groups_by_setup([("server", {"groups": [told]})]))
    assert found["server"] == ["3", "40 of 1,000", "20.0 %", "5.0 %", "-"]


def test_stability_table() -> None:
    one = {"domain": "one", "lag_seconds": 41.6, "distinct_pages_ratio": spread(0, 0.5, 1), "self_sharing_ratio": None}
    study = {"stability": [one | {"lag_traces": 1}, one | {"lag_traces": 2, "domain": "two"}]}
    assert rows(tables.lasting(study)) == {"one": ["42", "50.0 %", "-"]}


def test_aslr_table_has_reductions() -> None:
    compared = {
        "page_size": 4096,
        "sets": [{"total_sharing_pages": spread(0, pages, 0)} for pages in (400 * MIB, 300 * MIB)],
        "reduction_percent": {"total": spread(20, 25, 30), "self": spread(-1, 0, 1), "inter": None},
    }
    found = rows(tables.aslr([("processes", compared, "10 %")]))
    assert found["processes"] == ["400.0", "300.0", "25.0 (20.0 to 30.0)", "0.0 (-1.0 to 1.0)", "-", "10 %"]


def test_window_notes_are_left_out() -> None:
    found = rows(tables.runs([("one", 61.5, 2, ("shows letter", "no window News"))]))
    assert found["one"] == ["62", "3", "no window News"]


def test_every_guest_has_labels() -> None:
    cells = [cell for cell in MATRIX if "setups" in cell.sets]
    made = labels(cell.name for cell in cells)
    for cell in cells:
        assert {"name": cell.platform, "match": [f"{cell.platform}-*"]} in made["platforms"]
        assert {"name": cell.setup, "match": [f"*-{cell.setup}"]} in made["setups"]


def test_labels_cover_booted_guests_only() -> None:
    assert labels(["bookworm-amd64-server"]) == {
        "platforms": [{"name": "bookworm-amd64", "match": ["bookworm-amd64-*"]}],
        "setups": [{"name": "server", "match": ["*-server"]}],
    }


def test_page_keeps_prose_and_old_tables() -> None:
    page = "Before.\n<!-- measured: a -->\nold a\n<!-- end -->\nBetween.\n<!-- measured: b -->\nold b\n<!-- end -->\n"
    new = fill_tables(page, {"a": "new a\n"})
    assert new == page.replace("old a\n", "\nnew a\n\n")
    assert fill_tables(new, {"a": "new a\n"}) == new


def test_table_without_marker_is_an_error() -> None:
    with pytest.raises(FieldError, match="measured: groups"):
        fill_tables("no marker", {"groups": "x"})


def test_docs_page_has_every_table() -> None:
    page = PAGE.read_text()
    names = ("compile", "self-sharing", "self-sharing by setup", "pairs", "groups", "page sizes", "randomisation")
    assert all(page.count(f"<!-- measured: {name} -->") == 1 for name in names)


def test_filled_pages_are_recognized() -> None:
    known = filled_pages(7, 4096)
    own = np.zeros(3, dtype=np.uint64)
    best_hasher().hash_buffer(b"\xcc" * 4096 + b"\xc0\xc0\xc0\xff" * 1024 + b"ab" * 2048, own, 4096, 7)
    assert [known.get(one) for one in own.tolist()] == ["0xcc", "pixels #c0c0c0", None]
    assert own[0] not in filled_pages(8, 4096)


def test_most_repeated_contents_are_sorted() -> None:
    traced = trace([5, 5, 5, 5, 9, 9, 7], domain="one")
    assert most_repeated_contents(traced, {9: "0xcc"}, 2) == [
        RepeatedContent("one", 4, 0.75, "-"),
        RepeatedContent("one", 2, 0.25, "0xcc"),
    ]
    assert rows(tables.repeated(most_repeated_contents(traced, {}, 1), 4096)) == {"one": ["4", "0.0", "75.0 %", "-"]}
