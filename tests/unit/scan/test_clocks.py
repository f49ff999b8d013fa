from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from samepaged.drift.ledger import PausedTime
from samepaged.errors import Reason
from samepaged.scan.clocks import Clocks
from samepaged.scan.results import SkippedGuest
from tests.support.results import guest_id

if TYPE_CHECKING:
    import pytest

GUEST, OTHER = guest_id("web"), guest_id("db")


def end_round(clocks: Clocks, *refused: str) -> None:
    skipped = [SkippedGuest(name, Reason.DRIFT_BUDGET, f"domain {name!r}: no room", guest_id(name)) for name in refused]
    clocks.round_ended([GUEST, OTHER], [*skipped, SkippedGuest("x", Reason.READ, "x", guest_id("x"))])


def test_budget_wait_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    with caplog.at_level(logging.INFO):
        for names in ([], ["web"], ["web", "db"], ["web"], [], ["web"]):
            end_round(clocks, *names)
    assert [message.split()[6] for message in caplog.messages] == ['domain="web"', 'domain="db"', 'domain="web"']
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_running_guests_have_paused_time() -> None:
    clocks = Clocks()
    assert clocks.paused() == {}
    end_round(clocks)
    clocks.ledger.add(GUEST.uuid, 1.8)
    assert clocks.paused() == {GUEST: PausedTime(1.8, 1.8 / 3600), OTHER: PausedTime(0.0, 0.0)}
