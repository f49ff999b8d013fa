"""The audit trail of a daemon that scans real guests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import daemon
from tests.support.guests import in_a_job

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

LINE = re.compile(
    r'^samepaged: INFO: (?P<verb>suspended|did not suspend) domain="(?P<domain>\S+)" uuid=(?P<uuid>\S+)'
    r"(?: mode=(?P<mode>\S+))? pauses=(?P<pauses>\d+) paused_seconds=(?P<seconds>\S+) "
    r"longest_pause_seconds=(?P<longest>\S+)(?: first_pause=\S+Z last_pause=\S+Z)? result=(?P<result>\w+)$",
    re.MULTILINE,
)
ROUND_ENDED = re.compile(r"^samepaged: INFO: scan finished guests=\d+ .*\n", re.MULTILINE)


def trail(log: str) -> list[dict[str, Any]]:
    return [found.groupdict() for found in LINE.finditer(log)]


# A snapshot of a busy host has room below max_pause, so that the circuit breaker stays closed. Slices take half of it.
MODES = {
    "snapshot": "max_pause: 5s",
    "sliced": "max_pause: 20ms, max_duty: 0.5",
    "live": "max_pause: 5s",
}


@pytest.mark.parametrize("mode", MODES)
def test_each_scan_of_a_guest_has_one_line_that_agrees_with_the_metrics(
    samepaged: Samepaged, pair: list[Writer], mode: str
) -> None:
    samepaged.configure(f"scan: {{interval: 1s, jitter: 0, max_drift: 1, mode: {mode}, {MODES[mode]}}}")
    with daemon(samepaged) as one:
        one.wait_scans(3)
        metrics = one.metrics()
        rounds = int(metrics["samepage_scan_duration_seconds_count", frozenset()])
        one.wait(rf"(?s)(?:INFO: scan finished guests=2 .*){{{rounds}}}")
    lines = [trail(part) for part in ROUND_ENDED.split(one.log)[:rounds]]
    names = sorted(writer.name for writer in pair)
    assert [sorted(line["domain"] for line in part) for part in lines] == [names] * rounds
    for writer in pair:
        labels = frozenset({("domain", writer.name)})
        own = [line for part in lines for line in part if line["domain"] == writer.name]
        assert {(line["uuid"], line["result"]) for line in own} == {(writer.domain.UUIDString(), "scanned")}
        if mode == "live":
            assert {(line["verb"], line["mode"], line["pauses"]) for line in own} == {("did not suspend", mode, "0")}
            assert ("samepage_pause_duration_seconds_count", labels) not in metrics
            continue
        assert {(line["verb"], line["mode"]) for line in own} == {("suspended", mode)}
        pauses = sum(int(line["pauses"]) for line in own)
        assert pauses == metrics["samepage_pause_duration_seconds_count", labels]
        assert pauses > rounds if mode == "sliced" else pauses == rounds
        seconds = sum(float(line["seconds"]) for line in own)
        assert seconds == pytest.approx(metrics["samepage_pause_duration_seconds_sum", labels], abs=1e-6 * rounds)


def test_a_guest_that_is_skipped_before_it_is_suspended_has_no_line(
    samepaged: Samepaged, pair: list[Writer], tmp_path: Path
) -> None:
    a, b = pair
    samepaged.configure("scan: {interval: 1s, jitter: 0, max_drift: 1}")
    with in_a_job(a, tmp_path), daemon(samepaged) as one:
        one.wait_scans(2)
    assert {line["domain"] for line in trail(one.log)} == {b.name}
