"""The audit trail of a daemon that scans real guests."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.daemon import daemon
from tests.support.guests import Spec, running
from tests.system.conftest import in_a_job

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.guests import Writer
    from tests.system.conftest import Samepaged

LINE = re.compile(
    r'^samepaged: INFO: (?P<verb>suspended|did not suspend) domain="(?P<domain>\S+)" uuid=(?P<uuid>\S+)'
    r"(?: mode=(?P<mode>\S+))? pauses=(?P<pauses>\d+) paused_seconds=(?P<seconds>\S+) "
    r"longest_pause_seconds=(?P<longest>\S+)(?: first_pause=\S+Z last_pause=\S+Z)? result=(?P<result>\w+)$",
    re.MULTILINE,
)
ROUND_ENDED = re.compile(r"^samepaged: INFO: scanned \d+ guests in .*\n", re.MULTILINE)
LARGE = "samepaged-test-audited"


def trail(log: str) -> list[dict[str, Any]]:
    return [found.groupdict() for found in LINE.finditer(log)]


@pytest.mark.parametrize("mode", ["snapshot", "sliced", "live"])
def test_each_scan_of_a_guest_has_one_line_that_agrees_with_the_metrics(
    samepaged: Samepaged, pair: list[Writer], mode: str
) -> None:
    samepaged.configure(
        f"scan: {{interval: 1s, jitter: 0, max_drift: 1, mode: {mode}, max_pause: 20ms, max_duty: 0.5}}"
    )
    with daemon(samepaged) as one:
        one.wait_scans(3)
        metrics = one.metrics()
        rounds = int(metrics["samepage_scan_duration_seconds_count", frozenset()])
        one.wait(rf"(?s)(?:INFO: scanned 2 guests.*){{{rounds}}}")
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


def test_scans_that_fail_or_are_interrupted_after_a_pause_have_a_line(
    samepaged: Samepaged, connection: Any, root: Path
) -> None:
    samepaged.configure(
        f"scan: {{interval: 1s, jitter: 0, max_drift: 1, mode: snapshot}}\nguests: {{include: [{LARGE}]}}"
    )
    with running(connection, root, Spec(LARGE, memory=512, cmdline="region=256")) as (large,):
        large.fill(0, 256 * 256, 5, 256 * 256)
        with daemon(samepaged) as one:

            def resumed_by_others() -> bool:
                large.wait_until_suspended()
                with contextlib.suppress(libvirt.libvirtError):  # the scanner was quicker
                    large.domain.resume()
                return "result=resumed_by_others" in one.log

            one.wait_until(resumed_by_others, 60, every=0.2)
            large.wait_until_suspended()
            one.stop()
    *failed, interrupted = [line for line in trail(one.log) if line["result"] != "scanned"]
    assert {(line["result"], line["pauses"], line["mode"]) for line in failed} == {("resumed_by_others", "1", None)}
    assert (interrupted["result"], interrupted["pauses"], interrupted["mode"]) == ("interrupted", "1", None)
    assert all(float(line["seconds"]) > 0 for line in (*failed, interrupted))
