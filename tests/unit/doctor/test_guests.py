"""Tests of the doctor's guest checks, and of its text and JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.config import ScanConfig
from samepaged.doctor.check import Check, Status, failure, ok, warning
from samepaged.doctor.clock import clock_forecast
from samepaged.doctor.guests import GuestResult, scan_check, skipped_check
from samepaged.doctor.ram_layout import layout_check
from samepaged.doctor.report import document, text
from samepaged.errors import GuestError, Reason
from samepaged.hypervisor.hmp import RamBlock
from samepaged.memory.modes import FallbackReason
from samepaged.memory.ram_location import RamMapping
from samepaged.memory.reader import Forecast
from samepaged.text_layout import columns

GIB = 1 << 30
SHARED = FallbackReason("shared", "its memory is shared")


def forecast(mode: str = "snapshot", pause: float = 0.03, **more: Any) -> Forecast:
    values: dict[str, Any] = {"reader": "process", "snapshot": 0.03, "backed": GIB, "obstacle": None} | more
    return Forecast(mode, pause=pause, **values)


@pytest.mark.parametrize(
    ("found", "scan", "status", "word"),
    [
        (forecast(), ScanConfig(), "ok", "a pause of about 30.0 ms"),
        (forecast(obstacle=SHARED), ScanConfig(), "ok", "a better mode is unavailable: its memory is shared"),
        (forecast("precopy", 0.02, snapshot=2.0), ScanConfig(), "ok", "at most 250 ms"),
        (forecast("precopy", 0.02, snapshot=2.0), ScanConfig(), "ok", "a snapshot would take 2.00 s"),
        (forecast("sliced", 0.13, snapshot=2.0, obstacle=SHARED), ScanConfig(), "warning", "many pauses"),
        (forecast("sliced", 0.13, snapshot=2.0), ScanConfig(mode="sliced"), "ok", "many pauses"),
        (forecast("live", 0.0), ScanConfig(mode="live"), "ok", "without a pause"),
        (forecast(pause=2.0, snapshot=2.0), ScanConfig(mode="snapshot"), "warning", "a pause of about 2.00 s"),
        (forecast(obstacle=SHARED), ScanConfig(mode="precopy"), "warning", "shared"),
        (forecast(reader="dump", backed=None), ScanConfig(reader="dump", mode="snapshot"), "ok", "reader dump"),
        (forecast(reader="dump", backed=None), ScanConfig(mode="snapshot"), "warning", "reader dump"),
    ],
)
def test_guest_check_follows_the_forecast(found: Forecast, scan: ScanConfig, status: str, word: str) -> None:
    check = scan_check("web-1", 2 * GIB, found, scan, paused=False)
    assert (check.status, word in check.message, check.domain) == (status, True, "web-1")
    assert check.message.startswith("2.00 GiB")
    assert ("backed" in check.message) == (found.backed is not None)
    assert (check.remedy is None) == (status == "ok")


@pytest.mark.parametrize(
    ("total", "more", "period", "loss", "words"),
    [
        (0.1, {}, 900, 9.6, "clock loses about 9.60 s per day"),
        (0.45, {}, 900, 43.2, "clock loses about 43.2 s per day"),
        (
            0.7,
            {},
            1800,
            33.6,
            "scan.max_drift allows a scan every 30 min; the guest's clock loses about 33.6 s per day",
        ),
        (1.8, {}, 3600, 43.2, "allows a scan every 60 min"),
        (1.9, {}, None, 0, "a scan exceeds scan.max_drift"),
        (1.9, {"max_drift": 1}, 900, 182.4, "clock loses about 182 s per day"),
        (0.1, {"interval": 7200}, 7200, 1.2, "1.20 s per day"),
    ],
)
def test_clock_drift_is_forecast(
    total: float, more: dict[str, float], period: float | None, loss: float, words: str
) -> None:
    scan = ScanConfig(**more)
    found = clock_forecast(total, scan)
    assert found.period_seconds == period
    assert found.loss_seconds_per_day == pytest.approx(loss)
    check = scan_check("web-1", GIB, forecast(total=total), scan, paused=False, clock=found)
    assert words in check.message
    assert check.status == ("warning" if period is None else "ok")
    if period is None:
        assert check.remedy == "set scan.max_drift to 530ppm or more, or scan.mode to live"


def test_guest_paused_by_others_is_ok() -> None:
    for mode in ("auto", "precopy", "snapshot"):
        check = scan_check("a", GIB, forecast(pause=0.0, snapshot=9.0), ScanConfig(mode=mode), paused=True)
        assert (check.status, "already paused, not by samepaged" in check.message) == ("ok", True)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_skip_reason_has_a_remedy(reason: Reason) -> None:
    check = skipped_check("web'1", GuestError(reason, "is odd", domain="web'1"))
    assert f"skipped ({reason})" in check.message
    assert (check.status == "ok") == reason.intended == (check.remedy is None)


def test_transient_reasons_are_warnings() -> None:
    assert skipped_check("a", GuestError(Reason.IN_JOB, "is in a job", domain="a")).status == "warning"
    assert (
        skipped_check("a", GuestError(Reason.IN_JOB, "is in a job", domain="a")).message
        == "skipped (in_job): is in a job"
    )
    check = skipped_check("a b", GuestError(Reason.NO_PERMISSION, "it may not be read", "run as root"))
    assert (check.status, check.remedy) == ("failure", "run as root")
    assert "'a b'" in str(skipped_check("a b", GuestError(Reason.CRASHED, "has crashed", domain="a b")).remedy)


def mapping(start: int, size: int) -> RamMapping:
    return RamMapping(start, size, (0, 0), 0, 0, "", shared=False, hugetlb=False, mergeable=False)


def test_layout_matches_qemu_addresses() -> None:
    ours = [mapping(0x7000_0000, GIB), mapping(0x1000_0000, GIB)]
    qemus = [RamBlock("ram-node0", GIB, 0x7000_0000), RamBlock("ram-node1", GIB, 0x1000_0000)]
    assert layout_check("a", ours, qemus).status == "ok"
    assert layout_check("a", ours, [*qemus, RamBlock("vga.vram", GIB, 0x5)]).status == "ok"
    assert layout_check("a", ours, qemus[:1]).status == "failure"
    assert layout_check("a", ours, [qemus[0], RamBlock("ram-node1", GIB, 0x1000_1000)]).status == "failure"
    assert layout_check("a", ours, [qemus[0], RamBlock("ram-node1", GIB, None)]).status == "warning"
    assert all("tainted" in layout_check("a", ours, blocks).message for blocks in (qemus, qemus[:1]))


CHECKS = [
    ok("configuration", "/etc/samepaged/config.yaml"),
    warning("soft-dirty", "this kernel does not support soft-dirty bits " * 4, "use another " * 10),
    failure("guest", "skipped", "mend it", "web-1"),
    ok("guest", "2.00 GiB", "web-2"),
]


def test_report_has_a_line_per_check() -> None:
    lines = text(CHECKS, coloured=False).splitlines()
    assert lines[0] == "ok       configuration: /etc/samepaged/config.yaml"
    assert lines[1].startswith("warning  soft-dirty: this kernel")
    assert lines[lines.index("") + 1 :] == [
        "failure  guest web-1: skipped",
        "         -> mend it",
        "ok       guest web-2: 2.00 GiB",
        "",
        "2 ok, 1 warning, 1 failure",
    ]


def test_only_the_status_is_coloured() -> None:
    first, *_ = text(CHECKS, coloured=True).splitlines()
    assert first == "\x1b[32mok       \x1b[0mconfiguration: /etc/samepaged/config.yaml"


TEXTS = st.text(max_size=200)


@given(st.lists(st.builds(Check, TEXTS, st.sampled_from(Status), TEXTS, st.none() | TEXTS, st.none() | TEXTS)))
def test_report_lines_are_short_and_escaped(checks: list[Check]) -> None:
    lines = text(checks, coloured=False).split("\n")
    assert max(map(columns, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    json.dumps(document(checks, []), ensure_ascii=False).encode()


def test_document_has_the_contract_keys() -> None:
    found = forecast("precopy", 0.02, snapshot=2.0, obstacle=SHARED)
    scanned = GuestResult("web-1", "u-1", GIB, paused=False, reason=None, forecast=found, check=CHECKS[3])
    scanned = dataclasses.replace(scanned, clock=clock_forecast(0.1, ScanConfig()))
    left_out = GuestResult("w\udcff", "u-2", None, paused=False, reason=Reason.IN_JOB, forecast=None, check=CHECKS[2])
    told = json.loads(json.dumps(document(CHECKS, [scanned, left_out])))
    assert told["schema"] == 1
    assert told["checks"][2] == {
        "name": "guest",
        "status": "failure",
        "message": "skipped",
        "remedy": "mend it",
        "domain": "web-1",
    }
    assert told["guests"][0] == {
        "name": "web-1",
        "uuid": "u-1",
        "memory_bytes": GIB,
        "paused": False,
        "skipped_reason_code": None,
        "mode": "precopy",
        "reader": "process",
        "backed_bytes": GIB,
        "predicted_pause_seconds": 0.02,
        "predicted_snapshot_seconds": 2.0,
        "predicted_paused_seconds": 0.1,
        "predicted_scan_period_seconds": 900,
        "predicted_clock_loss_seconds_per_day": pytest.approx(9.6),
        "obstacle_code": "shared",
        "obstacle": "its memory is shared",
    }
    assert told["guests"][1]["name"] == "w\\udcff"
    assert (told["guests"][1]["mode"], told["guests"][1]["skipped_reason_code"]) == (None, "in_job")
