"""Traces of real guests: equal to the scan's report, also after disk failures."""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING, Any

from samepaged.traces import newest_traces, read, survey
from tests.support.daemon import daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

STATES = ("memory_pages", "absent_pages", "swapped_pages", "zero_pages", "distinct_pages", "duplicate_pages")


def test_traces_equal_the_scan_report(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    config = samepaged.configure("scan: {page_sizes: [2KiB, 8KiB]}\ntraces: {host: kvm-7}\n")
    place = tmp_path / "traces"
    scan = samepaged.scan("--config", str(config), "--traces", str(place))
    found = {about.domain: (file, about) for file, about in newest_traces(survey(place))}
    assert sorted(found) == sorted(writer.name for writer in pair)
    for domain in scan["domains"]:
        file, about = found[domain["name"]]
        assert {state: getattr(about, state) for state in STATES} == {state: domain[state] for state in STATES}
        assert (about.host, about.uuid, about.mode) == ("kvm-7", domain["uuid"], domain["mode"])
        assert [counts.page_size for counts in about.by_page_size] == [2048, 8192]
        assert file.size <= 1.1 * 8 * about.distinct_pages + 8192
    (one,), (other,) = (read(file.path) for file, _ in found.values())
    (both,) = scan["pairs"]
    assert len(set(one.hashes.tolist()) & set(other.hashes.tolist())) == both["inter_sharing_pages"]


def test_daemon_writes_traces(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    place = tmp_path / "traces"
    samepaged.configure(
        f"scan: {{interval: 1s, jitter: 0, max_drift: 1}}\ntraces: {{enabled: true, directory: {place}}}\n"
    )
    with daemon(samepaged) as running:
        running.wait_scans(3)
        written = running.metric("samepage_traces_written_total")
        assert written is not None
        assert running.metric("samepage_traces_lost_total") == 0
    traces = [about for file in survey(place) for about in file.traces]
    assert {about.domain for about in traces} == {writer.name for writer in pair}
    assert len(traces) >= 4
    listed = json.loads(samepaged("traces", "ls", "--json", str(place)).stdout)["traces"]
    assert len(listed) == len(traces)
    assert samepaged("traces", "verify", str(place)).stdout == f"{len(traces)} traces are intact\n"


def test_trace_write_failures_are_counted(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    config = samepaged.configure(
        f"scan: {{interval: 1s, jitter: 0, max_drift: 1}}\ntraces: {{enabled: true, directory: {in_the_way}/traces}}\n"
    )
    with daemon(samepaged) as running:
        running.wait_scans(3)
        running.wait_metric(0, "samepage_traces_written_total")
        assert (running.metric("samepage_traces_lost_total") or 0) >= 2
        assert running.log.count("give samepaged write permission") == 1
    done = samepaged("scan", "--config", str(config), "--traces", f"{in_the_way}/traces", "--json", expect=1)
    assert len(json.loads(done.stdout)["domains"]) == 2
    assert done.stderr.count("trace not written") == 2


def test_old_traces_are_pruned(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    place = tmp_path / "traces"
    samepaged.scan("--traces", str(place))
    size = sum(file.size for file in survey(place))
    samepaged.configure(
        "scan: {interval: 1s, jitter: 0, max_drift: 1}\n"
        f"traces: {{enabled: true, directory: {place}, max_bytes: {int(size * 1.9)}}}\n"
    )
    with daemon(samepaged) as running:
        running.wait_scans(4)
        assert 0 < (running.metric("samepage_traces_stored_bytes") or 0) <= size * 1.9


def small_files() -> None:
    """No file may grow beyond 64 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def test_full_disk_leaves_no_partial_trace(samepaged: Samepaged, pair: list[Writer], tmp_path: Path) -> None:
    place = tmp_path / "traces"
    options: dict[str, Any] = {"preexec_fn": small_files}
    done = samepaged("scan", "--json", "--connect", samepaged.uri, "--traces", str(place), expect=1, **options)
    assert done.stderr.count("cannot be written") == 2
    assert [path for path in place.rglob("*") if path.is_file()] == []
