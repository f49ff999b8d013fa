from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from samepaged.drift.ledger import PausedTime
from samepaged.errors import Reason
from samepaged.scan.clocks import Clocks
from samepaged.scan.results import SkippedGuest

if TYPE_CHECKING:
    import pytest

GUEST = "3f0c1e0a-0000-0000-0000-000000000001"
OTHER = "3f0c1e0a-0000-0000-0000-000000000002"


def end_round(clocks: Clocks, *refused: str) -> None:
    skipped = [SkippedGuest(name, Reason.DRIFT_BUDGET, f"domain {name!r}: no room") for name in refused]
    clocks.round_ended({GUEST: "web", OTHER: "db"}, [*skipped, SkippedGuest("x", Reason.READ, "x")])


def test_a_wait_for_the_budget_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    with caplog.at_level(logging.INFO):
        for names in ([], ["web"], ["web", "db"], ["web"], [], ["web"]):
            end_round(clocks, *names)
    assert [str(record.args[0])[:13] for record in caplog.records if isinstance(record.args, tuple)] == [
        "domain 'web':",
        "domain 'db': ",
        "domain 'web':",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_every_guest_that_runs_has_its_paused_time() -> None:
    clocks = Clocks()
    assert clocks.paused() == {}
    end_round(clocks)
    clocks.ledger.add(GUEST, 1.8)
    assert clocks.paused() == {"web": PausedTime(1.8, 1.8 / 3600), "db": PausedTime(0.0, 0.0)}
