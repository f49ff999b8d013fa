"""Page attribution as JSON, as text, as metrics and on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from prometheus_client.parser import text_string_to_metric_families

from samepaged.attribution.document import attribution_document
from samepaged.attribution.page_owners import KINDS
from samepaged.attribution.report import CopiedPage, Owner
from samepaged.config import SourcesConfig
from samepaged.metrics.exposition import families, render
from samepaged.page import Page
from samepaged.report.attribution import attribution_text
from samepaged.scan.label_values import KINDS as WORDS
from samepaged.scan.snapshot import GuestAttribution, Snapshot
from tests.support.results import AWKWARD_NAMES, STARTED, answers, full_snapshot, guest_id

CONTRACT = {"domain", "kernel", "memory_pages", "labelled_ratio", "kinds", "processes", "files", "most_copied"}


def series(snapshot: Snapshot, *, top: int = 10, names: bool = False) -> dict[str, dict[tuple[str, ...], float]]:
    shown = replace(snapshot, attribution_config=SourcesConfig(top=top, names=names, name_labels=names))
    text = render(families(shown), openmetrics=False).decode()
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)
        if family.name.startswith("samepage_source_")
    }


def test_json_has_documented_keys() -> None:
    document = json.loads(json.dumps(attribution_document(answers("web"))))
    assert document.keys() >= CONTRACT
    assert (document["domain"], document["kernel"]) == ("web", "6.1.0-56-cloud-amd64")
    assert document["kinds"][0] == {
        "kind": "heap",
        "pages": 300,
        "sharing_pages": 70,
        "self_sharing_pages": 50,
        "inter_sharing_pages": 20,
        "split_pages": 60.0,
    }
    assert document["processes"][0]["process"] == "apache2"
    assert document["files"][0]["path"] == "/usr/lib/libc.so.6"
    assert document["most_copied"][0] == {
        "copies": 12,
        "others": True,
        "owners": ["[libc.so.6 000b6000 r-xp]: apache2 sshd"],
        "owner_pages": [],
        "more_owners": 1,
    }


def test_withheld_names_are_null() -> None:
    document = attribution_document(answers("web", names=False))
    assert (document["processes"], document["files"]) == (None, None)
    assert "process" not in attribution_text(answers("web", names=False))


def test_text_lists_owners_with_sizes() -> None:
    text = attribution_text(answers("web"))
    assert "web: Linux 6.1.0-56-cloud-amd64, 3.91 MiB" in text
    assert "98.0% of it with a known owner" in text
    assert "self-sharing 320 KiB (160 KiB of it in use)" in text
    heap = next(line for line in text.splitlines() if line.startswith("heap"))
    assert heap.split() == ["heap", "1.17", "MiB", "280", "KiB", "63.6%", "200", "KiB", "80", "KiB", "54.5%"]
    assert "12 copies: [libc.so.6 000b6000 r-xp]: apache2 sshd and 1 more" in text


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_hostile_program_names_are_escaped(name: str) -> None:
    hostile = replace(
        answers("web"),
        kernel=name,
        processes=(Owner(name, 1, 1, 1, 1.0),),
        files=(Owner(name, 1, 1, 1, 1.0),),
        most_copied=(CopiedPage(2, shared_with_others=False, owners=(f"[{name}]",)),),
    )
    json.dumps(attribution_document(hostile)).encode()
    text = attribution_text(hostile)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text.splitlines()) == len(attribution_text(replace(hostile, kernel="x")).splitlines())
    shown = replace(full_snapshot(), attributions={guest_id("web-1"): GuestAttribution(hostile, STARTED)})
    assert b"<script" not in Page()(shown, STARTED)
    ET.fromstring(Page()(shown, STARTED).decode().removeprefix("<!DOCTYPE html>\n"))  # noqa: S314 - our own page


def test_metric_kinds_match_page_kinds() -> None:
    assert tuple(WORDS) == KINDS


def test_metrics_have_top_kinds_without_names() -> None:
    found = series(full_snapshot(), top=2)
    assert found["samepage_source_sharing_bytes"] == {
        ("web-1", "heap"): 70 * 4096,
        ("web-1", "library"): 50 * 4096,
        ("web-2", "heap"): 70 * 4096,
        ("web-2", "library"): 50 * 4096,
    }
    assert found["samepage_source_labelled_ratio"]["web-1",] == 0.98
    assert found["samepage_source_last_scan_timestamp_seconds"]["web-1",] == STARTED - 900
    assert not {"samepage_source_process_sharing_bytes", "samepage_source_file_sharing_bytes"} & found.keys()


@pytest.mark.parametrize("top", [1, 2, 3, 10])
def test_split_sums_to_sharing(top: int) -> None:
    split = series(full_snapshot(), top=top)["samepage_source_split_bytes"]
    assert sum(value for (domain, _), value in split.items() if domain == "web-1") == 110 * 4096
    assert (("web-1", "other") in split) == (top < 3)


def test_name_labels_are_optional_and_bounded() -> None:
    found = series(full_snapshot(), top=1, names=True)
    assert found["samepage_source_process_sharing_bytes"] == {
        ("web-1", "apache2"): 60 * 4096,
        ("web-2", "apache2"): 60 * 4096,
    }
    assert found["samepage_source_file_sharing_bytes"]["web-1", "/usr/lib/libc.so.6"] == 30 * 4096


def test_departed_guest_has_no_attribution() -> None:
    assert {
        labels[0] for labels in series(full_snapshot().without(guest_id("web-1")))["samepage_source_split_bytes"]
    } == {"web-2"}


def test_page_shows_owners_per_guest() -> None:
    html = Page()(full_snapshot(), STARTED).decode()
    assert "Page attribution" in html
    assert "apache2" in html
    assert "[libc.so.6 000b6000 r-xp]: apache2 sshd" in html


def test_page_without_names_shows_kinds() -> None:
    kept_back = {guest_id("web-1"): GuestAttribution(answers("web-1", names=False), STARTED)}
    html = Page()(replace(full_snapshot(), attributions=kept_back), STARTED).decode()
    assert "library" in html
    assert "apache2" not in html
    assert "libc" not in html


def test_page_without_attribution_omits_section() -> None:
    assert "Page attribution" not in Page()(replace(full_snapshot(), attributions={}), STARTED).decode()
