from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.guard.suspend import LeftOpenError
from samepaged.memory.hashing import Interrupted
from samepaged.scan.audit import AuditEntry, failure, fields, logged, message

if TYPE_CHECKING:
    from collections.abc import Iterator

UUID = "5e0c9e1c-0b1d-4f43-8e5a-9b0f6a1c2d3e"
ENTRY = AuditEntry("web1", UUID, "precopy", (0.051, 0.0305, 0.0415), (1.7e9, 1.7e9 + 1.25, 1.7e9 + 2.5), "scanned")


@dataclass
class Suspensions:
    pauses: list[float] = field(default_factory=list)
    pause_starts: list[float] = field(default_factory=list)
    failed: bool = False

    def add(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.pause_starts.append(1.7e9)


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "samepaged"):
        yield caplog


def details(line: str) -> dict[str, str]:
    """A parser of its own: words `key=value`, and a value in quotes is a JSON string."""
    pairs = re.findall(r' (\w+)=("(?:[^"\\]|\\.)*"|\S+)', line)
    assert " ".join(f"{key}={value}" for key, value in pairs) == line.partition(" ")[2]
    assert len({key for key, _ in pairs}) == len(pairs)
    return {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


def test_audit_line_has_pauses_and_times() -> None:
    assert message(ENTRY) == (
        f'suspended domain="web1" uuid={UUID} mode=precopy pauses=3 paused_seconds=0.123000 '
        "longest_pause_seconds=0.051000 first_pause=2023-11-14T22:13:20.000Z last_pause=2023-11-14T22:13:22.500Z "
        "result=scanned"
    )


def test_audit_line_without_pauses() -> None:
    live = replace(ENTRY, mode="live", pauses=(), starts=())
    assert message(live) == (
        f'did not suspend domain="web1" uuid={UUID} mode=live pauses=0 paused_seconds=0.000000 '
        "longest_pause_seconds=0.000000 result=scanned"
    )


def test_journal_fields_match_details() -> None:
    assert fields(ENTRY) == {
        "SAMEPAGED_DOMAIN": "web1",
        "SAMEPAGED_UUID": UUID,
        "SAMEPAGED_MODE": "precopy",
        "SAMEPAGED_PAUSES": "3",
        "SAMEPAGED_PAUSED_SECONDS": "0.123000",
        "SAMEPAGED_LONGEST_PAUSE_SECONDS": "0.051000",
        "SAMEPAGED_FIRST_PAUSE": "2023-11-14T22:13:20.000Z",
        "SAMEPAGED_LAST_PAUSE": "2023-11-14T22:13:22.500Z",
        "SAMEPAGED_RESULT": "scanned",
    }


@given(st.text())
def test_names_cannot_forge_audit_lines(name: str) -> None:
    line = message(replace(ENTRY, name=name))
    assert line.isprintable()
    ours = {f"SAMEPAGED_{key.upper()}": value for key, value in details(line.removeprefix("suspended")).items()}
    assert ours == fields(replace(ENTRY, name=name))
    assert ours["SAMEPAGED_DOMAIN"] == name


@pytest.mark.parametrize(
    "name", ['x" result=scanned', "x\nsamepaged: INFO: suspended", "x\u2028y", "x\x7f\u202ey\udcff"]
)
def test_hostile_name_stays_one_detail(name: str) -> None:
    line = message(replace(ENTRY, name=name, result="overdue"))
    assert line.isprintable()
    assert details(line.removeprefix("suspended"))["domain"] == name
    assert line.endswith(" result=overdue")


def test_readable_name_is_not_escaped() -> None:
    assert ' domain="müller-öffentlich" ' in message(replace(ENTRY, name="müller-öffentlich"))


def test_successful_scan_has_one_line(info: pytest.LogCaptureFixture) -> None:
    suspensions = Suspensions()
    with logged("web1", UUID, suspensions) as scan:
        suspensions.add(0.25)
        scan.mode = "snapshot"
    (record,) = info.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == message(AuditEntry("web1", UUID, "snapshot", (0.25,), (1.7e9,), "scanned"))
    assert record.journal_fields["SAMEPAGED_MODE"] == "snapshot"  # type: ignore[attr-defined]


def test_scan_without_suspend_has_a_line(info: pytest.LogCaptureFixture) -> None:
    with logged("web1", UUID, Suspensions()) as scan:
        scan.mode = "live"
    assert [details(line.removeprefix("did not suspend"))["pauses"] for line in info.messages] == ["0"]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        *((GuestError(reason, "no"), reason.value) for reason in Reason),
        (HypervisorError("libvirt is away"), "libvirt"),
        (Interrupted(), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_failure_after_pause_has_a_line(info: pytest.LogCaptureFixture, error: BaseException, result: str) -> None:
    assert failure(error) == result
    suspensions = Suspensions()
    with pytest.raises(type(error)), logged("web1", UUID, suspensions):  # noqa: PT012 - the error ends the scan
        suspensions.add(0.5)
        raise error
    (line,) = info.messages
    assert details(line.removeprefix("suspended")) == {
        "domain": "web1",
        "uuid": UUID,
        "pauses": "1",
        "paused_seconds": "0.500000",
        "longest_pause_seconds": "0.500000",
        "first_pause": "2023-11-14T22:13:20.000Z",
        "last_pause": "2023-11-14T22:13:20.000Z",
        "result": result,
    }


LEFT_OPEN = LeftOpenError("web1", "the suspend call may still be queued in libvirt", TimeoutError())
HALF_WAY = GuestError(Reason.LIBVIRT, "suspending domain 'web1' failed")


@pytest.mark.parametrize(("error", "result"), [(LEFT_OPEN, "no_answer"), (HALF_WAY, "libvirt")])
def test_unanswered_suspend_has_a_line(info: pytest.LogCaptureFixture, error: GuestError, result: str) -> None:
    with pytest.raises(GuestError), logged("web1", UUID, Suspensions(failed=True)):
        raise error
    (line,) = info.messages
    assert line == (
        f'may have suspended domain="web1" uuid={UUID} pauses=0 paused_seconds=0.000000 '
        f"longest_pause_seconds=0.000000 uncertain=yes result={result}"
    )
    assert info.records[0].journal_fields["SAMEPAGED_UNCERTAIN"] == "yes"  # type: ignore[attr-defined]


def test_unanswered_resume_is_uncertain(info: pytest.LogCaptureFixture) -> None:
    suspensions = Suspensions(failed=True)
    with pytest.raises(GuestError), logged("web1", UUID, suspensions):  # noqa: PT012 - the error ends the scan
        suspensions.add(3.5)
        raise LEFT_OPEN
    (line,) = info.messages
    assert line.startswith("suspended ")
    assert line.endswith(" uncertain=yes result=no_answer")


def test_error_before_suspend_has_no_line(info: pytest.LogCaptureFixture) -> None:
    with pytest.raises(GuestError), logged("web1", UUID, Suspensions()):
        raise HALF_WAY
    assert info.messages == []


def test_failure_without_pause_has_no_line(info: pytest.LogCaptureFixture) -> None:
    with pytest.raises(GuestError), logged("web1", UUID, Suspensions()):
        raise GuestError(Reason.IN_JOB, "no")
    assert info.messages == []
