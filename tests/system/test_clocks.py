"""Clock drift of a real guest due to scans, and its bound."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import daemon
from tests.support.guests import Spec, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

NAME = "samepaged-test-clock"
ONLY = f"guests: {{include: ['{NAME}']}}"
# In MiB: the guest's memory, and the filled part, so that reading it dominates each pause.
MEMORY, REGION = 384, 256
SCANS = 20


@pytest.fixture(scope="module")
def guest(connection: Any, root: Path) -> Iterator[Writer]:
    with running(connection, root, Spec(NAME, memory=MEMORY, cmdline=f"region={REGION}")) as (writer,):
        writer.fill(0, REGION * 256, 7, REGION * 256)
        yield writer


@pytest.mark.parametrize(("mode", "max_pause"), [("snapshot", "5s"), ("sliced", "100ms")])
def test_the_counter_is_the_clocks_loss(samepaged: Samepaged, guest: Writer, mode: str, max_pause: str) -> None:
    scan = f"mode: {mode}, max_pause: {max_pause}, max_duty: 0.5, max_drift: 1, threads: 1"
    samepaged.configure(f"scan: {{interval: 1s, jitter: 0, {scan}}}\n{ONLY}")
    ahead = guest.clock_offset()
    with daemon(samepaged) as one:
        one.wait_scans(SCANS)
        samepaged.configure(f"scan: {{interval: 1h, jitter: 0, {scan}}}\n{ONLY}")
        one.process.send_signal(signal.SIGHUP)
        one.wait("configuration reloaded")
        time.sleep(2)  # a scan that was due, or under way
        counted = one.metric("samepage_domain_paused_seconds_total", domain=NAME)
        ratio = one.metric("samepage_domain_paused_ratio", domain=NAME)
        lost = ahead - guest.clock_offset()
    assert counted is not None
    assert ratio is not None
    print(f"{mode}: lost {lost:.3f} s, counted {counted:.3f} s, {lost / counted:.2f}")
    assert counted > 0.2
    assert 0.7 <= lost / counted <= 1.1
    assert ratio == pytest.approx(counted / 3600)


def test_the_budget_outlives_the_daemon(samepaged: Samepaged, guest: Writer) -> None:
    samepaged.configure(f"scan: {{interval: 1s, jitter: 0, max_drift: 250ppm}}\n{ONLY}")
    with daemon(samepaged) as one:
        one.wait("scan deferred by the drift budget", timeout=60)
        one.wait_scans(3)
        counted = one.metric("samepage_domain_paused_seconds_total", domain=NAME)
        assert counted is not None
        last = one.metric("samepage_domain_last_pause_seconds", domain=NAME)
        assert last is not None
        # A pause begins only if it is expected to fit; on a busy host it takes longer than that.
        assert counted > 0
        assert counted - last <= 0.9
        assert not [key for key in one.metrics() if key[0] == "samepage_scan_failures_total"]
        assert len(re.findall("scan deferred", one.log)) == 1
        assert "guest skipped" not in one.log
    with daemon(samepaged) as successor:
        successor.wait("scan deferred by the drift budget .* fits in 6[01] min")
        successor.wait_scans(3)
        more = successor.metric("samepage_domain_paused_seconds_total", domain=NAME)
        assert more is not None
        # Its forecast may be shorter than the first daemon's on a busy host, and use the rest of the budget.
        longest = successor.metric("samepage_domain_last_pause_seconds", domain=NAME) or last
        assert counted + more - longest <= 0.9
    refused = samepaged.scan()
    reasons = {one["name"]: one["reason_code"] for one in refused["skipped"]}
    assert reasons.pop(NAME) == "drift_budget"
    assert set(reasons.values()) <= {"excluded"}  # guests of other tests
    # A mode on the command line is the operator's decision; its pauses count all the same.
    (asked,) = samepaged.scan("--mode", "snapshot")["domains"]
    assert asked["paused_seconds_total"] == pytest.approx(asked["pause_seconds"])
    assert asked["paused_ratio"] > counted / 3600
    assert guest.domain.isActive()


def test_a_guest_without_an_agent_is_one_line(samepaged: Samepaged, guest: Writer) -> None:
    scan = "interval: 1s, jitter: 0, mode: snapshot, max_drift: 1, sync_clock: agent, sync_clock_above: 1ms"
    samepaged.configure(f"scan: {{{scan}}}\n{ONLY}")
    with daemon(samepaged) as one:
        one.wait("guest agent did not set the clock")
        one.wait_scans(3)
        assert len(re.findall("guest agent did not set the clock", one.log)) == 1
        assert one.metric("samepage_domains", result="scanned") == 1
    assert guest.domain.isActive()


def test_doctor_foresees_the_clock(samepaged: Samepaged, guest: Writer) -> None:
    samepaged.configure(ONLY)
    done = samepaged("doctor", "--json", "--config", str(samepaged.config), expect=None)
    found = {one["name"]: one for one in json.loads(done.stdout)["guests"]}[guest.name]
    scan, period = found["predicted_paused_seconds"], found["predicted_scan_period_seconds"]
    assert 0 < scan < 1.8
    assert period >= 900
    assert found["predicted_clock_loss_seconds_per_day"] == pytest.approx(scan * 86400 / period)
    samepaged.configure(f"scan: {{max_drift: 1ppm}}\n{ONLY}")
    done = samepaged("doctor", "--config", str(samepaged.config), expect=None)
    shown = " ".join(done.stdout.split())
    assert re.search(rf"warning guest {NAME}: .* a scan exceeds scan.max_drift", shown)
    assert re.search(r"-> set scan.max_drift to \d+ppm or more", shown)
