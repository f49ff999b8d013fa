"""Figures 11 and 12: the origin of sharing, over traces with owners beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.analysis.study.attribution.involvement import LIBRARIES, attribution, is_library
from samepaged.attribution.document import attribution_document
from samepaged.attribution.report import AttributionReport, Owner, report_attribution
from samepaged.cli import main
from samepaged.traces import TraceStore, attribution_file
from tests.support.traces import trace
from tests.unit.attribution.owned import Page, ownership

if TYPE_CHECKING:
    from pathlib import Path

NOON = 1_700_000_000.0
HOSTILE = "<b>\x1b[2J\u202e$\\frac{$"


def answers(
    *kinds: Owner, own: int = 60, inter: int = 40, names: bool = True, labelled: float = 0.9
) -> AttributionReport:
    """Return the attribution of a guest of 1,000 pages, 100 of them shared by default."""
    return AttributionReport(
        domain="web-1",
        kernel="6.1.0",
        memory_pages=1000,
        in_use_pages=900,
        labelled_ratio=labelled,
        self_sharing_pages=own,
        inter_sharing_pages=inter,
        kinds=kinds,
        processes=(Owner("apache2", 90, 20, 10, 25.0), Owner(HOSTILE, 10, 1, 1, 1.5)) if names else None,
        files=(
            Owner("/usr/lib/x86_64-linux-gnu/libc.so.6", 50, 10, 20, 20.0),
            Owner("/usr/sbin/apache2", 30, 5, 5, 8.0),
            Owner("/usr/lib/libxul.so (deleted)", 20, 2, 2, 3.0),
        )
        if names
        else None,
        most_copied=(),
        combined_kinds=(Owner("library+private_file", 290, 45, 25, 60.0),),
    )


HEAP, LIBRARY, COPIES = Owner("heap", 300, 50, 10, 40.0), Owner("library", 200, 20, 30, 35.0), "private_file"
SOME = answers(HEAP, LIBRARY, Owner(COPIES, 90, 30, 5, 25.0))


def test_min_avg_max_over_traces() -> None:
    found = attribution([("web-1", [SOME, answers(replace(HEAP, self_sharing_pages=10), own=20, inter=20)])])
    assert found is not None
    (guest,) = found.guests
    heap = guest.kinds[0]
    assert (heap.name, heap.ratio.min, heap.ratio.avg, heap.ratio.max) == ("heap", 0.5, 0.55, 0.6)
    assert [heap.self_sharing, heap.inter_sharing] == pytest.approx([0.375, 0.175])
    library = guest.kinds[1]
    assert (library.name, library.ratio.min, library.ratio.max) == ("library", 0.0, 0.5)
    assert library.ratio.avg == pytest.approx(0.25)
    assert (guest.sharing.min, guest.sharing.avg, guest.sharing.max) == (40, 70, 100)


def test_split_sums_to_total_sharing() -> None:
    found = attribution([("web-1", [SOME])])
    assert found is not None
    assert sum(one.split for one in found.all_guests.kinds) == pytest.approx(1)
    assert sum(one.ratio.avg for one in found.all_guests.kinds) > 1


def test_combined_guests_cover_all_traces() -> None:
    found = attribution([("a", [SOME]), ("b", [answers(HEAP, own=80, inter=120)] * 2), ("c", [])])
    assert found is not None
    assert [(one.domain, one.traces) for one in found.guests] == [("a", 1), ("b", 2)]
    heap = found.all_guests.kinds[0]
    assert [heap.ratio.min, heap.ratio.avg, heap.ratio.max] == pytest.approx([0.3, 0.4, 0.6])


def test_traces_without_names_are_skipped() -> None:
    found = attribution([("a", [SOME, answers(HEAP, names=False)]), ("b", [answers(HEAP, names=False)])])
    assert found is not None
    a, b = found.guests
    assert a.processes is not None
    assert [(one.name, one.ratio.min) for one in a.processes] == [("apache2", 0.3), (HOSTILE, 0.02)]
    assert (b.processes, b.files) == (None, None)
    assert found.all_guests.processes == a.processes


def test_traces_without_sharing_have_no_ratios() -> None:
    nothing = answers(Owner("heap", 10, 0, 0, 0.0), own=0, inter=0)
    assert attribution([("a", [replace(nothing, processes=None, files=None)])]) is None
    assert attribution([]) is None


def test_equal_printed_names_count_once() -> None:
    found = attribution([("a", [replace(SOME, processes=(Owner("x", 9, 40, 0, 1.0), Owner("x", 9, 1, 0, 1.0)))])])
    assert found is not None
    assert found.all_guests.processes is not None
    assert [(one.name, one.ratio.avg) for one in found.all_guests.processes] == [("x", 0.4)]


pages = st.builds(
    Page,
    content=st.integers(3, 8),
    kind=st.sampled_from([*LIBRARIES, "heap", "free"]),
    users=st.sampled_from([(), ("sshd",), ("sshd", "apache2")]),
)


@given(st.lists(pages, max_size=14), st.sets(st.integers(3, 8)))
def test_library_involvement_is_combined(guest: list[Page], others: set[int]) -> None:
    contents = [page.content for page in guest]
    distinct = sorted(set(contents))
    told = report_attribution(
        "a",
        ownership(*guest),
        np.array(contents, dtype=np.uint64),
        np.array([content in others for content in distinct], dtype=np.bool_),
        names=True,
    )
    found = attribution([("a", [told])])
    of_libraries = {page.content for page in guest if page.kind in LIBRARIES}
    involved = sum(contents.count(content) - 1 + (content in others) for content in of_libraries)
    if found is None:
        assert involved == 0
        return
    combined = {one.name: one.ratio.avg for one in found.all_guests.combined}
    assert combined.get("library+private_file", 0.0) == pytest.approx(involved / told.sharing_pages)


def test_libraries_are_recognized_by_name() -> None:
    assert [is_library(path) for path in ("/lib/libc.so.6", "/x/libm-2.36.so", "/x/libxul.so (deleted)")] == [True] * 3
    assert [is_library(path) for path in ("/usr/sbin/sshd", "/etc/ld.so.d/x", "/a.sox", "")] == [False] * 4


# From a directory of traces.


def add(place: Path, domain: str, told: AttributionReport | None, at: float = 0) -> Path:
    path = TraceStore(place).write(trace([9, 9, 10, 11], domain=domain, at=NOON + at))
    if told is not None:
        document = attribution_document(replace(told, domain=domain))
        attribution_file.write(path, {**document, "host": "kvm-1", "scanned_at": NOON + at})
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "traces"
    for at in range(2):
        add(place, "web-1", SOME, at)
    add(place, "web-2", answers(HEAP, names=False))
    add(place, "db", None)
    return place


def test_document_has_attribution_per_guest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--json", str(place)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["sources"]
    assert set(found) == {"together", "domains"}
    assert [(one["domain"], one["traces"]) for one in found["domains"]] == [("web-1", 2), ("web-2", 1)]
    web = found["domains"][0]
    assert web["sharing_pages"] == {"min": 100, "avg": 100, "max": 100}
    assert web["kinds"][0] == {
        "kind": "heap",
        "pages": 300,
        "sharing_ratio": {"min": 0.6, "avg": 0.6, "max": 0.6},
        "self_sharing_ratio": 0.5,
        "inter_sharing_ratio": 0.1,
        "split_ratio": 0.4,
    }
    assert [one["kinds"] for one in web["together"]] == ["library+private_file"]
    assert web["together"][0]["sharing_ratio"]["avg"] == pytest.approx(0.7)
    assert [one["process"] for one in web["processes"]] == ["apache2", HOSTILE]
    assert web["files"][0]["path"] == "/usr/lib/x86_64-linux-gnu/libc.so.6"
    assert (found["domains"][1]["processes"], found["domains"][1]["files"]) == (None, None)
    assert found["together"]["traces"] == 3


def test_tables_of_figures_11_and_12_are_escaped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(place)]) == 0
    shown = capsys.readouterr().out
    tables = {one.partition(":")[0]: one.splitlines() for one in shown.split("\n\n")}
    rows = {line[:40].strip(): line[40:].split() for line in tables["Figure 11"]}
    by_name = {name.split("  ")[0]: cells for name, cells in rows.items()}
    assert {"heap", "library", "private_file", "library+private_file"} <= by_name.keys()
    assert any(line.split()[0] == "apache2" for line in tables["Figure 12"])
    assert "web-2" in "\n".join(tables["Section 5.2"])
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_report_has_figures_beside_tables(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["study", "--out", str(out), str(place)]) == 0
    page = (out / "report.html").read_text()
    for key, words in (("fig11-content", ("heap", "libc.so.6")), ("fig12-process", ("apache2",))):
        assert (out / f"{key}.png").read_bytes().startswith(b"\x89PNG\r\n")
        svg = (out / f"{key}.svg").read_text()
        assert all(word in svg for word in (*words, "self-sharing"))
        section = page.partition(f'<section id="{key}">')[2].partition("</section>")[0]
        assert f'<svg class="{key}"' in section
        assert "<table>" in section
    assert "<b>" not in page
    assert "sources" in json.loads((out / "study.json").read_text())


def test_figure_12_needs_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path / "traces", "web-1", answers(HEAP, names=False))
    assert main(["study", "--out", str(tmp_path / "out"), str(tmp_path / "traces")]) == 0
    shown = capsys.readouterr().out
    assert "Figure 11" in shown
    assert "Figure 12" not in shown
    assert not list((tmp_path / "out").glob("fig12*"))


def test_study_without_attribution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, "web-1", None)
    assert main(["study", "--json", str(tmp_path)]) == 0
    assert "sources" not in json.loads(capsys.readouterr().out)
    assert main(["study", str(tmp_path)]) == 0
    assert "Figure 11" not in capsys.readouterr().out


def test_damaged_attribution_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = min(place.rglob("*.sources.json"))
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["study", "--json", str(place)]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert f"samepaged: {path}: does not match its checksum" in shown.err
