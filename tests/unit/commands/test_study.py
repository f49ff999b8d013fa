"""Tests of `samepaged study` and `samepaged compare`: tables, JSON, figures and the report."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from samepaged.cli import main
from samepaged.sharing import ABSENT, SWAPPED, ZERO, PageDigest
from samepaged.traces import PageSizeCounts, Trace, TraceStore
from samepaged.traces.parquet import write as write_file
from tests.support.traces import trace

if TYPE_CHECKING:
    from pathlib import Path

NOON = 1_700_000_000.0
HOSTILE = "<script>alert(1)</script> $\\frac{$ & \"'\u202e\n"
P, Q, R = 101, 2**63 + 5, 2**64 - 9


def guest_trace(
    domain: str, *pages: int, host: str = "kvm-1", at: float = 0, seed: int = 7, page_size: int = 4096
) -> Trace:
    digest = PageDigest(np.array(pages, dtype=np.uint64), page_size)
    sizes = (PageSizeCounts(2 * page_size, len(pages) // 2, 0, 1, 0),)
    return trace(digest, host=host, domain=domain, at=NOON + at, seed=seed, by_page_size=sizes)


def add(place: Path, *traces: Trace) -> None:
    for one in traces:
        TraceStore(place).write(one)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    command, *others = map(str, words)
    assert main([command, "--json", *others]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# The paper's own examples (section 3).


def test_paper_example_of_three_guests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, guest_trace("A", P, P, P), guest_trace("B", P, P, P, host="kvm-2"), guest_trace("C", Q, Q, Q))
    found = told(capsys, "study", tmp_path)
    assert {one["domain"]: one["self_sharing_pages"]["avg"] for one in found["domains"]} == {"A": 2, "B": 2, "C": 2}
    assert [(one["domains"], one["inter_sharing_pages"]) for one in found["pairs"]] == [
        (["A", "B"], {"min": 1, "avg": 1, "max": 1}),
        (["A", "C"], {"min": 0, "avg": 0, "max": 0}),
        (["B", "C"], {"min": 0, "avg": 0, "max": 0}),
    ]
    (pairs, three) = found["groups"]
    assert (three["guests"], three["exact"], three["self_sharing_pages"]) == (3, True, 6)
    assert three["inter_sharing_pages"] == {"min": 1, "avg": 1, "max": 1}
    assert pairs["inter_sharing_pages"]["max"] == 1


def test_study_scales_with_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ten = list(range(1000, 1010))
    add(tmp_path / "once", guest_trace("A", *ten), guest_trace("B", *ten))
    add(tmp_path / "thrice", guest_trace("A", *ten * 3), guest_trace("B", *ten * 3))
    once, thrice = told(capsys, "study", tmp_path / "once"), told(capsys, "study", tmp_path / "thrice")
    (pair,) = once["pairs"]
    assert (pair["self_sharing_pages"], pair["inter_sharing_pages"]["avg"]) == (0, 10)
    assert pair["inter_sharing_ratio"]["avg"] == 0.5
    assert pair["self_over_total_ratio"] == 0
    (pair,) = thrice["pairs"]
    assert (pair["self_sharing_pages"], pair["inter_sharing_pages"]["avg"]) == (40, 10)
    assert pair["inter_sharing_ratio"]["avg"] == pytest.approx(1 / 6)
    assert pair["self_sharing_pages"] / pair["memory_pages"] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create traces of four guests, one of them with a malicious name. Tests must not change them."""
    place: Path = tmp_path_factory.mktemp("traces")
    for number in range(3):
        add(place, guest_trace("web-1", P, P, Q, ZERO, ZERO, ABSENT, at=number))
    for number in range(2):
        add(place, guest_trace("web-2", P, R, R, R + number, ZERO, ZERO, at=number))
        add(place, guest_trace("db", Q, Q + number, SWAPPED, ZERO, at=number))
    add(place, guest_trace(HOSTILE, P, P, P, P))
    return place


@pytest.fixture
def place(traces: Path, tmp_path: Path) -> Path:
    """Copy the traces, for tests that change them."""
    place = tmp_path / "traces"
    shutil.copytree(traces, place)
    return place


def test_json_object_has_documented_keys(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "study", traces)
    assert (found["schema"], found["page_size"], found["hash_bits"], found["sample"], found["traces"]) == (
        1,
        4096,
        64,
        1,
        8,
    )
    assert [(one["domain"], one["traces"]) for one in found["domains"]] == sorted(
        [("web-1", 3), ("web-2", 2), ("db", 2), (HOSTILE, 1)]
    )
    (pair,) = (one for one in found["pairs"] if one["domains"] == ["web-1", "web-2"])
    assert (pair["trace_pairs"], pair["exact"]) == (6, True)
    # Each has two zero pages, and the first an absent one: all but one of each are self-sharing, and one is in both.
    assert pair["with_zero_pages"]["self_sharing_pages"] == pytest.approx(pair["self_sharing_pages"] + 3)
    assert pair["with_zero_pages"]["inter_sharing_pages"] == pytest.approx(pair["inter_sharing_pages"]["avg"] + 1)
    assert {one["lag_traces"] for one in found["stability"]} == {1, 2}
    assert {one["page_size"] for one in found["page_sizes"]} == {4096, 8192}


def test_tables_escape_names(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(traces)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for figure in ("Figure 2", "Figure 5", "Figure 6", "Figure 10", "Section 4.2.2", "Section 7"):
        assert f"\n{figure}: " in f"\n{shown.out}"
    assert "Figure 7" not in shown.out
    assert "\u202e" not in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines())


def test_sample_seed_is_printed(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--pairs", "1", "--seed", "17", str(traces)]) == 0
    assert "1 random pairs of traces (--seed 17)" in " ".join(capsys.readouterr().out.split())
    found = told(capsys, "study", "--pairs", "1", "--seed", "17", traces)
    assert found == told(capsys, "study", "--pairs", "1", "--seed", "17", traces)
    assert (found["seed"], found["pairs_limit"]) == (17, 1)
    assert {(one["trace_pairs"], one["exact"]) for one in found["pairs"]} == {(1, False)}


def test_labels_add_platform_tables(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("platforms: [{name: web, match: ['web-*']}, {name: other, match: [db]}]")
    found = told(capsys, "study", "--labels", labels, traces)["platforms"]
    assert [(one["platform"], one["domains"]) for one in found["self_sharing"]] == [("web", 2), ("other", 1)]
    assert [(one["platforms"], one["pairs"]) for one in found["pairs"]] == [(["web", "web"], 1), (["web", "other"], 2)]
    assert found["unlabelled"] == [HOSTILE]
    assert main(["study", "--labels", str(labels), str(traces)]) == 0
    assert "Figures 8 and 9: " in capsys.readouterr().out
    labels.write_text("nothing: 1")
    assert main(["study", "--labels", str(labels), str(traces)]) == 2


def test_label_without_guest_is_refused(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("platforms: [{name: zzz, match: ['nobody*']}]")
    assert "zzz (nobody*) matches none" in refused(capsys, "study", "--labels", labels, traces, status=2)


def test_long_names_stay_distinct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, *(guest_trace(f"webserver-{number}", P, P, Q) for number in range(12)))
    assert main(["study", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    rows = [line.split()[:2] for line in lines if line.startswith("webserver-")]
    assert len({tuple(row) for row in rows}) == len(rows) == 40


def test_multi_trace_file_equals_single_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traces = [guest_trace(name, P, P, Q, 200 + at, at=at) for name in ("a", "b") for at in range(3)]
    add(tmp_path / "apart", *traces)
    (tmp_path / "together").mkdir()
    write_file(tmp_path / "together" / "all.parquet", traces)
    assert told(capsys, "study", tmp_path / "together") == told(capsys, "study", tmp_path / "apart")


def test_short_hashes_report_collisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = PageDigest(np.arange(100, 50_100, dtype=np.uint64), 4096)
    for name in ("a", "b"):
        add(tmp_path, trace(digest, host="h", domain=name, at=NOON, seed="foreign-x", mode="import", hash_bits=32))
    found = told(capsys, "study", tmp_path)
    assert found["pairs"][0]["inter_sharing_collisions_pages"] == pytest.approx(50_000**2 / 2**32)
    assert found["domains"][0]["self_sharing_collisions_pages"] == pytest.approx(50_000**2 / 2 / 2**32, rel=0.01)
    assert main(["study", str(tmp_path)]) == 0
    assert "Hashes have 32 bits: up to 2 KiB of a figure may be collisions" in " ".join(capsys.readouterr().out.split())


# Unusable traces give an error with the file name, and never a number.


def refused(capsys: pytest.CaptureFixture[str], *words: object, status: int = 1) -> str:
    assert main([str(word) for word in words]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (guest_trace("odd", P, seed=8), "has seed"),
        (guest_trace("odd", P, page_size=8192), "has page size 8192"),
        (guest_trace("web-1", P, host="kvm-9").sampled(2), "has sample 2"),
    ],
)
@pytest.mark.parametrize("command", ["study", "compare"])
def test_mixed_traces_are_refused(
    command: str, odd: Trace, problem: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = TraceStore(place).write(odd)
    words = [command, "--json", place] + [place] * (command == "compare")
    said = refused(capsys, *words)
    assert str(path) in said
    assert problem in said


def damaged(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    said = refused(capsys, "study", "--json", place)
    refused(capsys, "compare", "--json", place, place)
    return said


def test_a_truncated_file_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted(place.rglob("*.parquet"))[3]
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in damaged(place, capsys)


def test_changed_row_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = TraceStore(place).write(guest_trace("many", *range(3, 3000)))
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 3] ^= 0x40
    path.write_bytes(octets)
    assert str(path) in damaged(place, capsys)


def test_foreign_file_among_traces_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "other.parquet").write_bytes(b"PAR1 and so on")
    assert "other.parquet: is not a Parquet file" in damaged(place, capsys)


def test_empty_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "contains no traces" in refused(capsys, "study", "--json", tmp_path)
    assert "does not exist" in refused(capsys, "study", "--json", tmp_path / "none")


@pytest.mark.parametrize("words", [("--pairs", "0"), ("--pairs", "-3"), ("--seed", "-1")])
def test_invalid_numbers_are_refused(words: tuple[str, ...], traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words[0] in refused(capsys, "study", *words, traces, status=2)


# Figures and the report.


class References(HTMLParser):
    """Collects the references and the elements of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.elements: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.found += [
            value or "" for name, value in attrs if name.split(":")[-1] in {"href", "src", "srcset", "data", "action"}
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def out(traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory that `--out` has written for these traces."""
    return drawn(traces, tmp_path_factory.mktemp("study") / "out")


def drawn(traces: Path, out: Path, *words: str) -> Path:
    labels = out.with_suffix(".yaml")
    labels.write_text("platforms: [{name: web, match: ['web-*']}, {name: '_$x$', match: ['*']}]")
    assert main(["study", "--json", "--out", str(out), "--labels", str(labels), *words, str(traces)]) == 0
    return out


def test_figures_are_png_and_svg(out: Path) -> None:
    keys = {"fig02-zero-pages", "fig05-self-sharing", "fig06-inter-vm-sharing", "fig07-self-by-platform"}
    keys |= {"fig08-inter-by-platform", "fig09-self-over-total", "fig10-page-size", "sec422-groups", "stability"}
    names = {path.name for path in out.iterdir()}
    assert names == {f"{key}.{kind}" for key in keys for kind in ("png", "svg")} | {"report.html", "study.json"}
    for key in keys:
        assert (out / f"{key}.png").read_bytes().startswith(b"\x89PNG\r\n")
        words = "".join(ET.parse(out / f"{key}.svg").getroot().itertext())  # noqa: S314 - ours
        assert re.search("web|db|self-sharing", words), key
    assert "\u202e" not in (out / "fig05-self-sharing.svg").read_text()


def test_report_is_self_contained_and_escaped(out: Path) -> None:
    page = (out / "report.html").read_text()
    found = References()
    found.feed(page)
    assert found.found
    assert all(reference.startswith("#") for reference in found.found)
    assert not re.search(r"https?:|url\((?!#)|@import", page)
    assert found.elements & {"script", "img", "link", "iframe", "object"} == set()
    assert "<script>alert(1)</script> $\\frac{$ & \"'\\u202e\\n" in found.text
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert {reference[1:] for reference in found.found} <= set(identifiers)


def test_study_output_is_reproducible(traces: Path, out: Path, tmp_path: Path) -> None:
    assert main(["study", "--out", str(tmp_path), str(traces)]) == 0
    figures = [path for path in tmp_path.iterdir() if path.suffix in {".png", ".svg"}]
    assert len(figures) == 12
    for path in figures:
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_single_trace_is_drawn(tmp_path: Path) -> None:
    add(tmp_path / "traces", guest_trace("alone", ABSENT, ABSENT))
    assert main(["study", "--out", str(tmp_path / "out"), str(tmp_path / "traces")]) == 0
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png", ".svg", ".html", ".json"}


def test_missing_matplotlib_leaves_only_tables(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "samepaged.analysis.study"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["study", str(traces)]) == 0
    assert "Figure 5" in capsys.readouterr().out
    for words in (["study"], ["compare", traces]):
        said = refused(capsys, *words, "--out", tmp_path / "out", traces, status=2)
        assert "pip install 'samepaged[study]'" in said
    assert not (tmp_path / "out").exists()


def test_unwritable_directory_is_reported(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(capsys, "study", "--json", "--out", tmp_path / "file", traces)


def test_two_sets_are_compared_and_drawn(traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(traces, other)
    found = told(capsys, "compare", traces, other)
    assert found["members"] == "domains"
    assert {kind: spread["avg"] for kind, spread in found["reduction_percent"].items()} == {
        "total": 0,
        "self": 0,
        "inter": 0,
    }
    assert main(["compare", "--out", str(tmp_path / "out"), str(traces), str(other)]) == 0
    printed = " ".join(capsys.readouterr().out.split())  # long paths wrap
    assert f"Figure 14: reduction of sharing from {traces}" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"fig14-reduction.png", "fig14-reduction.svg", "report.html", "compare.json"}
