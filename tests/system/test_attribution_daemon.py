"""Page attribution in the daemon, exported as far as the configuration permits."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from samepaged.attribution.page_owners import KINDS
from samepaged.traces import TraceStore
from samepaged.traces.attribution_file import read_beside_traces
from samepaged.traces.survey import survey
from tests.support.daemon import daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

# The first process of these guests, and its program.
PROCESS, PROGRAM = "init", "/init"


def asked(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as reply:
        body: bytes = reply.read()
    return body.decode()


def configured(samepaged: Samepaged, tmp_path: Path, more: str) -> None:
    traces = f"traces: {{enabled: true, directory: {tmp_path / 'traces'}, host: kvm-1}}"
    scan = "scan: {interval: 1s, jitter: 0, max_drift: 1, mode: snapshot, max_pause: 2s}"
    samepaged.configure(f"{scan}\nsources: {{enabled: true, every: 2, {more}}}\n{traces}")


def test_names_are_hidden_by_default(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    configured(samepaged, tmp_path, "names: false")
    with daemon(samepaged) as one:
        one.wait_scans(3)
        metrics = one.metrics()
        documents: list[dict[str, Any]] = json.loads(asked(one.address, "/api/v1/sources"))["domains"]
        page = asked(one.address, "/")
        text = asked(one.address, "/metrics")
    assert sorted(document["domain"] for document in documents) == sorted(writer.name for writer in pair)
    for document in documents:
        assert document["kernel"]
        assert document["labelled_ratio"] >= 0.97, document["note"]
        assert (document["processes"], document["files"]) == (None, None)
        kinds = {kind["kind"]: kind for kind in document["kinds"]}
        assert kinds.keys() <= set(KINDS)
        assert sum(kind["pages"] for kind in kinds.values()) == document["memory_pages"]
        domain = document["domain"]
        top = max(kinds.values(), key=lambda kind: kind["sharing_pages"])
        value = metrics["samepage_source_sharing_bytes", frozenset({("domain", domain), ("kind", top["kind"])})]
        assert value == top["sharing_pages"] * 4096
        assert metrics["samepage_source_labelled_ratio", frozenset({("domain", domain)})] >= 0.97
    assert "Page attribution" in page
    sidecars = "".join(path.read_text() for path in (tmp_path / "traces").rglob("*.sources.json"))
    assert sidecars
    for told in (page, text, sidecars, json.dumps(documents)):
        assert PROGRAM not in told
        assert f'"{PROCESS}"' not in told


def test_names_are_shown_if_enabled(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    configured(samepaged, tmp_path, "names: true, name_labels: true")
    with daemon(samepaged) as one:
        one.wait_scans(2)
        documents = json.loads(asked(one.address, "/api/v1/sources"))["domains"]
        metrics = one.metrics()
    for document in documents:
        assert PROCESS in {process["process"] for process in document["processes"]}
        assert PROGRAM in {file["path"] for file in document["files"]}
    assert {name for name, _ in metrics} >= {"samepage_source_process_sharing_bytes"}
    # Each second scan asked, and left its answers beside its trace.
    traces = len(list(TraceStore(tmp_path / "traces").files()))
    owned = [(file.traces[0].domain, answers) for file, answers in read_beside_traces(survey(tmp_path / "traces"))]
    assert 0 < len(owned) < traces
    assert {domain for domain, _ in owned} == {writer.name for writer in pair}
    assert all(PROCESS in {one.name for one in answers.processes or ()} for _, answers in owned)


def test_disabled_attribution_exports_nothing(samepaged: Samepaged, pair: list[Writer]) -> None:
    assert pair
    samepaged.configure("scan: {interval: 1s, jitter: 0, max_drift: 1}")
    with daemon(samepaged) as one:
        one.wait_scans(1)
        assert not [name for name, _ in one.metrics() if name.startswith("samepage_source_")]
        with pytest.raises(urllib.error.HTTPError) as caught:
            asked(one.address, "/api/v1/sources")
        assert caught.value.code == 404
        caught.value.close()
