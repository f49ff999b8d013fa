"""Tests of `samepaged traces import`, up to the paper's numbers from imported traces."""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import pytest

from samepaged.commands.traces import import_file
from samepaged.errors import TraceError, UsageError
from samepaged.sharing import PageDigest, SharingReport, analyse, count_all
from samepaged.sharing.model import Member
from samepaged.traces import TraceInfo, TraceStore, read, seed_id
from tests.unit.memory.image_files import PAGE, Load, core, lime, page

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.traces import Trace

P, Q = page("P"), page("Q")
WHEN = 1_700_000_000


class Import:
    """Runs `samepaged traces import` into a directory, with its own seed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = TraceStore(directory / "traces")
        (directory / "config.yaml").write_text("hashing: {seed: 7}\n")

    def __call__(self, content: bytes, *words: str, domain: str = "web-1") -> Trace:
        path = self.directory / "file"
        path.write_bytes(content)
        os.utime(path, (WHEN, WHEN))
        before = set(self.store.files())
        assert import_file.Command().run(self.parsed(str(path), "--domain", domain, *words)) == 0
        (written,) = set(self.store.files()) - before
        (trace,) = read(written)
        return trace

    def parsed(self, *words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        import_file.Command().prepare_parser(parser)
        config = str(self.directory / "config.yaml")
        return parser.parse_args(["--into", str(self.store.root), "--host", "kvm-1", "--config", config, *words])

    def refused(self, content: bytes, *words: str) -> str:
        """Return the error of the import, and check that the store is unchanged."""
        before = sorted(self.directory.rglob("*"))
        with pytest.raises((TraceError, UsageError)) as caught:
            self(content, *words)
        assert sorted(self.directory.rglob("*")) == sorted({*before, self.directory / "file"})
        assert str(caught.value).isprintable()
        return str(caught.value)


@pytest.fixture
def import_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    # seal() would apply to the test process, and cannot be undone.
    monkeypatch.setattr(import_file, "seal", lambda: None)
    return Import(tmp_path)


def states(about: TraceInfo) -> tuple[int, int, int, int, int]:
    """Return the page counts: absent, swapped, zero, distinct, duplicate."""
    return about.absent_pages, about.swapped_pages, about.zero_pages, about.distinct_pages, about.duplicate_pages


def analysed(*traces: Trace) -> SharingReport:
    """Return the result of the reference model, from the rows of the traces only."""
    digests = [PageDigest(trace.hashes.repeat(trace.pages), trace.info.page_size) for trace in traces]
    contents = count_all(digests)
    members = [Member(trace.info.domain, "", content) for trace, content in zip(traces, contents, strict=True)]
    return analyse(members, PAGE)


def as_raw(pages: list[bytes]) -> bytes:
    return b"".join(pages)


def as_core(pages: list[bytes]) -> bytes:
    half = len(pages) // 2
    return core(Load(0, b"".join(pages[:half])), Load(1 << 30, b"".join(pages[half:])))


def as_lime(pages: list[bytes]) -> bytes:
    half = len(pages) // 2
    return lime((0x1000, b"".join(pages[:half])), (1 << 30, b"".join(pages[half:])))


def as_text(pages: list[bytes]) -> bytes:
    return b"".join(f"{hash_of(content):08x}\n".encode() for content in pages)


def as_binary(pages: list[bytes]) -> bytes:
    return b"OS: Linux\nprocesses: 2\n" + b"".join(struct.pack("<I", hash_of(content)) for content in pages)


def hash_of(content: bytes) -> int:
    return random.Random(content).getrandbits(31) | 0x80000080  # not text


FORMS = {"raw": as_raw, "elf": as_core, "lime": as_lime, "hashes-text": as_text, "hashes-binary": as_binary}
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
def test_sharing_matches_the_paper_example(import_: Import, form: str) -> None:
    file = FORMS[form]
    traces = [import_(file(pages), domain=name) for name, pages in (("A", [P] * 3), ("B", [P] * 3), ("C", [Q] * 3))]
    report = analysed(*traces)
    assert [trace.info.duplicate_pages for trace in traces] == [2, 2, 2]
    assert (report.self_sharing_pages, report.inter_sharing_pages) == (6, 1)


@every_form
@pytest.mark.parametrize(("copies", "self_", "total"), [(1, 0, 10), (3, 40, 50)])
def test_two_identical_guests(import_: Import, form: str, copies: int, self_: int, total: int) -> None:
    pages = [page(letter) for letter in "abcdefghij"] * copies
    traces = [import_(FORMS[form](pages), domain=name) for name in "AB"]
    report = analysed(*traces)
    assert (report.self_sharing_pages, report.inter_sharing_pages) == (self_, 10)
    assert report.self_sharing_pages + report.inter_sharing_pages == total
    assert sum(trace.info.memory_pages for trace in traces) == 20 * copies


def test_trace_has_domain_and_time(import_: Import) -> None:
    about = import_(P + bytes(PAGE)).info
    assert (about.host, about.domain, about.uuid, about.scanned_at) == ("kvm-1", "web-1", None, WHEN)
    assert (about.seed, about.hash_bits, about.page_size, about.mode) == (seed_id(7), 64, PAGE, "imported")
    assert states(about) == (0, 0, 1, 1, 0)
    uuid = "71ebb48b-aaed-46d8-bce8-3cf9fc5e385e"
    about = import_(P, "--at", "2026-01-31T12:00:00+01:00", "--uuid", uuid.upper()).info
    assert (about.uuid, about.scanned_at) == (uuid, datetime(2026, 1, 31, 11, tzinfo=UTC).timestamp())


def test_rows_are_independent_of_format(import_: Import) -> None:
    pages = [P, Q, P, page("R")]
    raw, elf, of_lime = (import_(FORMS[form](pages), domain=form) for form in ("raw", "elf", "lime"))
    assert raw.hashes.tolist() == elf.hashes.tolist() == of_lime.hashes.tolist()
    assert raw.pages.tolist() == elf.pages.tolist() == of_lime.pages.tolist()


def test_duplicate_time_is_refused(import_: Import) -> None:
    import_(P)
    assert "--at" in import_.refused(Q)
    assert import_(Q, "--at", "2026-01-31T12:00:00Z").info.distinct_pages == 1


def test_page_size_counts_round_trip(import_: Import) -> None:
    found = import_(P + P + Q + bytes(PAGE), "--page-sizes", "8KiB,1024,2048,4096").info.by_page_size
    assert [(one.page_size, one.zero_pages, one.distinct_pages, one.duplicate_pages) for one in found] == [
        (1024, 4, 2, 10),
        (2048, 2, 2, 4),
        (8192, 0, 2, 0),
    ]


def test_foreign_hashes_are_not_comparable(import_: Import) -> None:
    first = import_(as_text([P, Q]), domain="a").info
    named = import_(as_text([P, Q]), "--hash-name", "superfast", domain="b").info
    wide = import_(as_text([P, Q]), "--bits", "64", domain="c").info
    assert [(one.seed, one.hash_bits) for one in (first, named, wide)] == [
        ("foreign-32", 32),
        ("foreign-superfast", 32),
        ("foreign-64", 64),
    ]


def test_zero_hash_marks_zero_pages(import_: Import, capsys: pytest.CaptureFixture[str]) -> None:
    content = as_text([P, Q, Q, bytes(PAGE), bytes(PAGE), bytes(PAGE)])
    zero = f"{hash_of(bytes(PAGE)):08x}"
    assert states(import_(content).info) == (0, 0, 0, 3, 3)
    assert f"the most frequent hash, of 3 pages, is {zero}" in capsys.readouterr().err
    assert states(import_(content, "--zero-hash", f"0x{zero}", domain="told").info) == (0, 0, 3, 2, 1)
    assert "most frequent" not in capsys.readouterr().err


def test_too_long_zero_hash_is_refused(import_: Import) -> None:
    assert "--zero-hash 123456789" in import_.refused(b"ff\n", "--zero-hash", "123456789")


def test_only_zero_pages_yield_no_rows(import_: Import) -> None:
    assert states(import_(b"aa\naa\n", "--zero-hash", "aa").info) == (0, 0, 2, 0, 0)


def test_only_short_hashes_report_collisions(import_: Import, capsys: pytest.CaptureFixture[str]) -> None:
    import_(b"ff\n10\nff\n")
    assert "of the 1 duplicate pages are expected to be collisions" in capsys.readouterr().err
    import_(b"ff\n10\nff\n", "--bits", "64", domain="wide")
    assert "collisions" not in capsys.readouterr().err


def test_omitted_core_segments_are_reported(import_: Import, capsys: pytest.CaptureFixture[str]) -> None:
    import_(core(Load(0, P * 4), Load(0xFFFC0000, Q), qemu=True))
    assert "note: 4096 of 20480 bytes were left out" in capsys.readouterr().err
    import_(core(Load(0, P * 4), Load(0xFFFC0000, Q), qemu=True), "--memory", "16KiB", domain="sure")
    assert capsys.readouterr().err == ""


def test_import_prints_one_line(import_: Import, capsys: pytest.CaptureFixture[str]) -> None:
    import_(P + P + Q + bytes(PAGE))
    (path,) = import_.store.files()
    expected = f"{path}: 4 pages of 4096 bytes: 0 absent, 0 swapped, 1 zero, 2 distinct, 1 duplicate\n"
    assert capsys.readouterr().out == expected


def test_import_prints_json(import_: Import, capsys: pytest.CaptureFixture[str]) -> None:
    import_(P + P + Q, "--json", "--page-sizes", "1024")
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    (path,) = import_.store.files()
    expected = {
        "path": str(path),
        "format": "raw",
        "domain": "web-1",
        "scanned_at": "2023-11-14T22:13:20Z",
        "notes": [],
    }
    assert {key: said[key] for key in expected} == expected
    assert (said["memory_pages"], said["distinct_pages"], said["duplicate_pages"]) == (3, 2, 1)
    assert said["by_page_size"][0]["duplicate_pages"] == 10


HEADED = as_binary([P] * 10)
DAMAGED = {
    "empty": (b"", "is empty"),
    "part of a page": (P[:-1], "not that of a raw image"),
    "a core that is cut": (core(Load(0, P))[:-1], "ends early"),
    "a core with overlaps": (core(Load(0, P + P), Load(PAGE, Q)), "overlapping memory ranges"),
    "LiME that is cut": (lime((0, P))[:-1], "ends early"),
    "LiME with overlaps": (lime((0, P), (0, Q)), "overlapping memory ranges"),
    "a migration stream": (b"QEVM" + P, "virsh dump --memory-only"),
    "gzip": (b"\x1f\x8b\x08" + P, "gunzip"),
    "a list with a word in it": (b"ff\nword\n", "line 2"),
    "a list that is cut": (HEADED[:-1], "not a multiple of 32-bit hashes"),
    "text, then as many bytes as pages have": (HEADED + bytes(-len(HEADED) % PAGE), "set --format"),
    "a text": (b"words\n", "not that of a raw image"),
}


@pytest.mark.parametrize(("content", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_import_writes_nothing(import_: Import, content: bytes, words: str) -> None:
    assert words in import_.refused(content)


def test_format_option_overrides_detection(import_: Import) -> None:
    content = as_binary([P] * 10) + bytes(-len(HEADED) % PAGE)
    assert import_(content, "--format", "raw", domain="raw").info.memory_pages == 1
    found = import_(content, "--format", "hashes-binary", "--count", "10", domain="list").info
    assert states(found) == (0, 0, 0, 1, 9)
    assert import_(P, "--format", "hashes-binary", "--bits", "64", domain="bare").info.memory_pages == 512


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (P, ("--zero-hash", "0")),
        (P, ("--bits", "64")),
        (b"ff\n", ("--page-sizes", "8192")),
        (b"ff\n", ("--memory", "4GiB")),
        (b"ff\n", ("--skip", "1")),
        (b"ff\n", ("--big-endian",)),
    ],
)
def test_inapplicable_option_is_refused(import_: Import, content: bytes, words: tuple[str, ...]) -> None:
    assert words[0] in import_.refused(content, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--at", "yesterday"),
        ("--at", "2026-01-31T12:00:00"),
        ("--at", "0001-01-01T00:00:00Z"),
        ("--uuid", "web"),
        ("--page-sizes", "1000"),
        ("--page-sizes", ""),
        ("--page-size", "4095"),
        ("--memory", "much"),
        ("--zero-hash", "zero"),
        ("--hash-name", "../x"),
        ("--skip", "-1"),
        ("--count", "1" * 19),
        ("--bits", "16"),
    ],
)
def test_invalid_argument_is_refused_early(
    import_: Import, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        import_.parsed("--domain", "web-1", "file", *words)
    assert caught.value.code == 2
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_interrupted_import_writes_nothing(
    import_: Import, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopping:
        stopping = True

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(import_file, "Signals", Stopping)
    path = import_.directory / "file"
    path.write_bytes(P)
    assert import_file.Command().run(import_.parsed(str(path), "--domain", "web-1")) == 130
    assert list(import_.store.files()) == []
    assert "interrupted" in capsys.readouterr().err
