from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from samepaged.drift.ledger import PausedTime
from samepaged.metrics import exposition
from samepaged.report.scan_json import document
from samepaged.service import web_feed as module
from samepaged.service.web_feed import PAGE_SECONDS, DocumentRenderer
from tests.support.results import STARTED, full_snapshot, guest_id, snapshot

if TYPE_CHECKING:
    from samepaged.web.protocol import Document


class Made:
    """The documents of one snapshot, by path; of several of a path, the first."""

    def __init__(self) -> None:
        self.snapshot = snapshot()
        self.now = STARTED
        self._documents = DocumentRenderer(lambda: self.snapshot, lambda: self.now)

    def all(self) -> list[Document]:
        return self._documents()

    def __getitem__(self, path: str) -> Document:
        return next(one for one in self.all() if one.path == path)


@pytest.fixture
def made() -> Made:
    return Made()


def test_metrics_precede_readiness(made: Made) -> None:
    assert (made["/metrics"].status, made["/"].status) == (200, 200)
    for path in ("/-/ready", "/api/v1/snapshot"):
        assert made[path].status == 503
        assert made[path].body == b"samepaged has not finished its first scan\n"


def test_snapshot_document_equals_scan_json(made: Made) -> None:
    made.snapshot = full_snapshot()
    latest = made.snapshot.latest
    assert latest is not None
    assert made["/-/ready"].status == 200
    assert made["/api/v1/snapshot"].media_type == "application/json"
    assert json.loads(made["/api/v1/snapshot"].body) == document(latest, made.snapshot.by_name(made.snapshot.paused))


def test_snapshot_document_is_cached(made: Made) -> None:
    made.snapshot = full_snapshot()
    first = made["/api/v1/snapshot"]
    assert made["/api/v1/snapshot"] is first
    assert made.snapshot.latest is not None
    made.snapshot = replace(made.snapshot, latest=replace(made.snapshot.latest, duration_seconds=99.0))
    assert json.loads(made["/api/v1/snapshot"].body)["duration_seconds"] == 99.0


def test_unchanged_snapshot_renders_process_metrics(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.snapshot = full_snapshot()
    calls: Counter[str] = Counter()

    def count(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def counting(*args: object) -> object:
            calls[name] += 1
            return original(*args)

        monkeypatch.setattr(owner, name, counting)

    count(exposition, "families")
    count(module, "document")
    count(made._documents, "_page")
    first = made.all()
    assert calls == {"families": 1, "document": 1, "_page": 1}
    made.now += PAGE_SECONDS - 1
    again = made.all()
    assert calls == {"families": 1, "document": 1, "_page": 1}
    assert [one for one in again if one.path != "/metrics"] == [one for one in first if one.path != "/metrics"]
    made.snapshot = replace(made.snapshot, libvirt_up=False)
    made.all()
    assert calls == {"families": 2, "document": 1, "_page": 2}


def test_page_ages_refresh_each_minute(made: Made) -> None:
    made.snapshot = full_snapshot()
    made.now = STARTED + 100
    first = made["/"]
    made.now += PAGE_SECONDS - 1
    assert made["/"] is first
    made.now += 1
    assert made["/"].body != first.body
    made.now -= 3600  # the clock is set back
    assert b"as of" in made["/"].body
    assert made["/"].body != first.body


def test_snapshot_document_follows_paused_times(made: Made) -> None:
    made.snapshot = full_snapshot()
    assert json.loads(made["/api/v1/snapshot"].body)["domains"][0]["paused_ratio"] == 0.0004
    made.snapshot = replace(made.snapshot, paused={guest_id("web-1"): PausedTime(1.5, 0.0)})
    assert json.loads(made["/api/v1/snapshot"].body)["domains"][0]["paused_ratio"] == 0


def test_metrics_have_both_formats(made: Made) -> None:
    made.snapshot = full_snapshot()
    text, openmetrics = (one for one in made.all() if one.path == "/metrics")
    assert text.media_type == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics.media_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    old = {family.name for family in parse_text(text.body.decode())}
    new = {family.name for family in parse_openmetrics(openmetrics.body.decode())}  # type: ignore[no-untyped-call]  # untyped
    assert "samepage_domain_memory_bytes" in old & new
    assert "process_cpu_seconds" in new


def test_render_failure_is_logged_once(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, openmetrics: bool) -> bytes:
        raise ZeroDivisionError(openmetrics)

    with monkeypatch.context() as patch:
        patch.setattr(exposition, "render", broken)
        for _ in range(3):
            assert made["/metrics"].status == made["/api/v1/snapshot"].status == 500
            assert b"ZeroDivision" not in made["/metrics"].body
            assert made["/-/ready"].status == 503
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text
    assert made["/metrics"].status == 200


def test_too_large_document_is_an_error(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 1000)
    made.snapshot = full_snapshot()
    assert made["/metrics"].status == 500
    assert b"samepaged scan --json" in made["/metrics"].body
    assert made["/-/ready"].status == 200


def test_page_failure_keeps_other_documents(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made.snapshot = full_snapshot()

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(made._documents, "_page", broken)
        assert [made["/"].status for _ in range(3)] == [500] * 3
        assert made["/"].body == b"samepaged could not render the page; see its log\n"
        assert made["/metrics"].status == made["/api/v1/snapshot"].status == 200
    assert len(caplog.records) == 1
    assert made["/"].status == 200


def test_page_shows_last_scan(made: Made) -> None:
    made.snapshot = full_snapshot()
    shown = made["/"].body.decode()
    assert "<bdi>web-1</bdi>" in shown
    assert f"samepaged on {platform.node()}" in shown


def test_page_links_exist(made: Made) -> None:
    paths = {one.path for one in made.all()} - {"/"}
    for path in (*paths, "/-/healthy"):
        assert f'href="{path.removeprefix("/")}"'.encode() in made["/"].body
